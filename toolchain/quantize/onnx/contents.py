"""Describes any ONNX decoder from its checked structure: no weight is read, nothing is run."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from device.manifest import ManifestError
from device.manifest.onnx import TYPES, Header, Tensor, read_header
from device.manifest.onnx_contract import context_of, contract_fault
from toolchain.errors import ArtifactError
from toolchain.quantize.contents import Contents, Share
from toolchain.quantize.noted import base_of

_BITS = dict(TYPES.values())
_CODES = "UINT8"
"""Type of codes of 4 bits."""


def read_contents(file: Path) -> Contents:
    """Return what is inside an ONNX file; raise ArtifactError for a broken structure."""
    try:
        header = read_header(file)
    except ManifestError as error:
        raise ArtifactError(str(error), hint="download or copy both files again") from error

    note = header.note
    types = _types(header)
    weights = sum(share.weights for share in types)
    fault = contract_fault(header)
    return Contents(
        file=file.name,
        size_bytes=header.size + header.data_size,
        kind="model",
        architecture=str(note.get("architecture", "ONNX")),
        name=str(note.get("name", "")),
        licence=str(note.get("licence", "")),
        base=base_of(note),
        scheme=str(note.get("scheme", "")),
        parameters=weights,
        types=types,
        bits=round(sum(share.size_bytes for share in types) * 8 / max(weights, 1), 3),
        shape={} if fault else _shape(header),
        context=0 if fault else context_of(header),
        tensors=header.external,
        warnings=tuple(_warnings(header, fault)),
    )


def _types(header: Header) -> tuple[Share, ...]:
    """Return the tensors of each type, the largest first; codes with their scales.

    Angles of positions are no weights.
    """
    scales = _places(header, {"GatherBlockQuantized": (2,), "MatMulNBits": (2,)})
    angles = _places(header, {"GroupQueryAttention": (7, 8)})
    of_kind: dict[str, list[Tensor]] = {}
    for tensor in header.external:
        if tensor.offset not in angles:
            kind = _CODES if tensor.offset in scales else tensor.type
            of_kind.setdefault(kind, []).append(tensor)

    shares = [_share(kind, tensors) for kind, tensors in sorted(of_kind.items())]
    return tuple(sorted(filter(None, shares), key=lambda share: -share.size_bytes))


def _share(kind: str, tensors: list[Tensor]) -> Share | None:
    """Return what tensors of one type hold; None for tensors without any weight."""
    # Codes of 4 bits lie two in a byte.
    bits = 4 if kind == _CODES else _BITS[kind]
    own = [tensor for tensor in tensors if tensor.type == kind]
    weights = sum(tensor.size for tensor in own) * 8 // bits
    if not weights:
        return None
    size = sum(tensor.size for tensor in tensors)
    return Share(type=kind, tensors=len(own), weights=weights, size_bytes=size)


def _places(header: Header, inputs: Mapping[str, tuple[int, ...]]) -> set[int | None]:
    """Return the places in the data file of tensors that are these inputs of these operators."""
    return {
        header.tensors[node.inputs[place]].offset
        for node in header.nodes
        for place in inputs.get(node.operator, ())
    }


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
