"""Describes any ONNX decoder from its checked structure: no weight is read, nothing is run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device.manifest import ManifestError
from device.manifest.onnx import TYPES, Header, read_header
from device.manifest.onnx_contract import context_of, contract_fault
from toolchain.errors import ArtifactError
from toolchain.quantize.contents import Contents, Share

_BITS = dict(TYPES.values())


def read_contents(file: Path) -> Contents:
    """Return what is inside an ONNX file; raise ArtifactError for a broken structure."""
    try:
        header = read_header(file)
    except ManifestError as error:
        raise ArtifactError(str(error), hint="download or copy both files again") from error

    note = header.note
    types = _types(header)
    weights = _parameters(note) or sum(share.weights for share in types)
    fault = contract_fault(header)
    return Contents(
        file=file.name,
        size_bytes=header.size + header.data_size,
        kind="model",
        architecture=str(note.get("architecture", "ONNX")),
        name=str(note.get("name", "")),
        licence=str(note.get("licence", "")),
        base=_base(note),
        scheme=str(note.get("scheme", "")),
        parameters=weights,
        types=types,
        rope="",
        tokenizer="",
        vocabulary=0,
        specials=(),
        bits=round(sum(share.size_bytes for share in types) * 8 / max(weights, 1), 3),
        shape={} if fault else _shape(header),
        context=0 if fault else context_of(header),
        template_sha256="",
        template_line="",
        tensors=header.external,
        warnings=tuple(_warnings(header, fault)),
    )


def _base(note: dict[str, Any]) -> str:
    named = str(note.get("base_model", ""))
    weights = str(note.get("base_weights", ""))
    return f"{named} ({weights})" if named and weights else named


def _parameters(note: dict[str, Any]) -> int:
    """Return the weights of the model, as the file says; 0 if it says none."""
    number = note.get("parameters")
    return number if isinstance(number, int) and number > 0 else 0


def _types(header: Header) -> tuple[Share, ...]:
    """Return the tensors of each type, the largest first."""
    shares = []
    for kind in sorted({tensor.type for tensor in header.external}):
        tensors = [tensor for tensor in header.external if tensor.type == kind]
        stored = sum(tensor.size for tensor in tensors)
        # Codes of 4 bits lie two in a byte.
        bits = 4 if kind == "UINT8" else _BITS[kind]
        shares.append(
            Share(
                type=kind,
                tensors=len(tensors),
                weights=stored * 8 // bits,
                size_bytes=stored,
            )
        )
    return tuple(sorted(shares, key=lambda share: -share.size_bytes))


def _shape(header: Header) -> dict[str, int]:
    key = header.inputs["past_key_values.0.key"].shape
    return {
        "layers": sum(name.startswith("present.") for name in header.outputs) // 2,
        "key heads": int(key[1]),
        "head width": int(key[3]),
        "tokens of vocabulary": int(header.outputs["logits"].shape[2]),
    }


def _warnings(header: Header, fault: str) -> Iterator[str]:
    """Yield what to know before this file is served."""
    if fault:
        yield f"no decoder that our engine runs: {fault}"
    if not header.note:
        yield "no note of ours: what stops an answer is not in the file"
