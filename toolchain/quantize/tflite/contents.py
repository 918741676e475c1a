"""Describes any TFLite file from its checked structure: no weight is read, no engine is started."""

from collections.abc import Iterator
from pathlib import Path

from device.manifest import ManifestError
from device.manifest.tflite import (
    TYPES,
    Header,
    Signature,
    foreign_operators,
    legacy_fault,
    read_header,
)
from toolchain.errors import ArtifactError
from toolchain.quantize.contents import Contents, Share
from toolchain.quantize.noted import base_of

_BITS = dict(TYPES.values())


def read_contents(file: Path) -> Contents:
    """Return what is inside a TFLite file; raise ArtifactError for a broken structure."""
    try:
        header = read_header(file)
    except ManifestError as error:
        raise ArtifactError(str(error), hint="download or copy the file again") from error

    note = header.note
    types = _types(header)
    decode = next(
        (signature for signature in header.signatures if signature.name == "decode"), None
    )
    weights = sum(share.weights for share in types)

    return Contents(
        file=file.name,
        size_bytes=header.size,
        kind="model",
        architecture=str(note.get("architecture", "TFLite")),
        name=str(note.get("name", "")),
        licence=str(note.get("licence", "")),
        base=base_of(note),
        scheme=str(note.get("scheme", "")),
        parameters=weights,
        types=types,
        bits=round(sum(share.size_bytes for share in types) * 8 / max(weights, 1), 3),
        shape=_shape(header, decode),
        context=_context(decode),
        tensors=header.constants,
        warnings=tuple(_warnings(header, decode)),
    )


def _types(header: Header) -> tuple[Share, ...]:
    kinds = sorted({tensor.type for tensor in header.constants})
    shares = []
    for kind in kinds:
        tensors = [tensor for tensor in header.constants if tensor.type == kind]
        stored = sum(tensor.size for tensor in tensors)
        shares.append(
            Share(
                type=kind,
                tensors=len(tensors),
                weights=stored * 8 // _BITS[kind],
                size_bytes=stored,
            )
        )
    return tuple(sorted(shares, key=lambda share: -share.size_bytes))


def _shape(header: Header, decode: Signature | None) -> dict[str, int]:
    if decode is None:
        return {"graphs": len(header.graphs)}
    caches = [tensor for name, tensor in decode.inputs.items() if name.startswith("kv_cache_k_")]
    heads = (
        {"key heads": caches[0].shape[1], "head width": caches[0].shape[3]}
        if caches and len(caches[0].shape) == 4
        else {}
    )
    logits = decode.outputs.get("logits")
    vocabulary = {"tokens of vocabulary": logits.shape[-1]} if logits and logits.shape else {}
    return {"layers": len(caches), **heads, **vocabulary, "signatures": len(header.signatures)}


def _context(decode: Signature | None) -> int:
    mask = decode.inputs.get("mask") if decode else None
    return mask.shape[-1] if mask and mask.shape else 0


def _warnings(header: Header, decode: Signature | None) -> Iterator[str]:
    """Yield what to know before this file is served."""
    if foreign := foreign_operators(header):
        yield (
            f"computes with {len(foreign)} operators that our engine does not run, "
            f"such as {foreign[0]}"
        )
    if decode is None:
        yield "no signature `decode`: no decoder in litert-torch's contract"
    if fault := legacy_fault(header):
        yield fault
    if not header.note:
        yield "no note of ours: what stops an answer is not in the file"
