"""The header of a GGUF file, read within bounds, and digests of its tensors.

A GGUF is hostile until `read_header` has passed it, so no native parser sees it before
(CVE-2024-21836, CVE-2026-33298, CVE-2026-7482 and others). Counts, lengths, alignment, dimensions,
offsets and the exact size of the file are checked, in about a second and little memory whatever the
file claims. Format: ggml docs/gguf.md, version 2 and 3, little-endian. Standard library only,
Python 3.10 up.
"""

import hashlib
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from device.manifest import ManifestError
from device.manifest.gguf_hazards import refuse_hazards
from device.manifest.gguf_values import MAX_TEXT_BYTES as MAX_TEXT_BYTES
from device.manifest.gguf_values import (
    U32,
    U64,
    UINT32,
    BadFileError,
    Cursor,
    Value,
    read_value,
)
from device.manifest.gguf_values import Array as Array

MAX_HEADER_BYTES = 64 << 20
MAX_ENTRIES = 4096
MAX_TENSORS = 16384
# A vocabulary of 262144 tokens with its merges has 0.8 million.
MAX_KEY_BYTES = 255
MAX_NAME_BYTES = 63
"""ggml's own limit for the name of a tensor (GGML_MAX_NAME)."""
MAX_ALIGNMENT = 4096
MAX_ELEMENTS = 1 << 48

TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""Number of a tensor type (ggml.h) → name, weights in a block, bytes of a block."""
_ALIGNMENT, TOKENS = "general.alignment", "tokenizer.ggml.tokens"
# PLaMo-2's loader wrote in front of its table for `<0x-1>`.


_Claim = tuple[str, int, tuple[int, ...], int]
"""A tensor's entry in the header: name, type number, shape, offset."""


@dataclass(frozen=True)
class Tensor:
    """One tensor in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    """Dimensions in ggml's order: the length of a row first."""
    offset: int
    """Offset of its first byte in the file."""
    size: int
    """Bytes, without the padding behind it."""


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file."""

    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    size: int
    """Bytes of the whole file."""


def read_header(path: "str | os.PathLike[str]") -> Header:
    """Read and check the header of a GGUF file.

    Raise ManifestError `bad_gguf` that names the file and the fault.
    """
    name = os.path.basename(os.fspath(path))
    try:
        size = os.path.getsize(path)
        if size < 24:
            raise BadFileError(f"{size} bytes are no GGUF file")
        with (
            open(path, "rb") as stream,
            mmap.mmap(
                stream.fileno(), min(size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ
            ) as view,
        ):
            return _parse(Cursor(view), size)
    except OSError as error:
        raise ManifestError("bad_gguf", f"{name}: cannot be read: {error.strerror}") from error
    except struct.error as error:
        raise ManifestError("bad_gguf", f"{name}: the header is cut short") from error
    except BadFileError as error:
        raise ManifestError("bad_gguf", f"{name}: {error}") from error


def tensor_digests(path: "str | os.PathLike[str]") -> list[dict[str, Any]]:
    """Return name, type, size and sha256 of each tensor, in file order.

    Raise ManifestError for a bad file.
    """
    header = read_header(path)
    with open(path, "rb") as stream:
        return [
            {
                "name": tensor.name,
                "type": tensor.type,
                "size": tensor.size,
                "sha256": _digest(stream, tensor),
            }
            for tensor in header.tensors
        ]


EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def streamed_bytes(header: Header) -> int:
    """Return the bytes of weights that are read for one token.

    That is all of them except the embedding, of which one row counts unless it is the head too.
    """
    names = {tensor.name for tensor in header.tensors}
    return sum(
        tensor.size for tensor in header.tensors if tensor.name != EMBEDDING or HEAD not in names
    )


def read_strings(
    path: "str | os.PathLike[str]", array: Array, indices: "set[int]"
) -> dict[int, str]:
    """Return the strings of an array at some indices, from a file that `read_header` has passed."""
    found: dict[int, str] = {}
    with open(path, "rb") as stream:
        stream.seek(array.offset)
        for place in range(min(max(indices, default=-1) + 1, array.count)):
            (length,) = U64.unpack(stream.read(U64.size))
            if place in indices:
                found[place] = stream.read(length).decode("utf-8", "replace")
            else:
                stream.seek(length, os.SEEK_CUR)

    return found


def _digest(stream: BinaryIO, tensor: Tensor) -> str:
    total = hashlib.sha256()
    left = tensor.size
    stream.seek(tensor.offset)

    while left:
        chunk = stream.read(min(left, 1 << 20))
        if not chunk:
            raise ManifestError("bad_gguf", f"tensor `{tensor.name}` is cut short")
        total.update(chunk)
        left -= len(chunk)

    return total.hexdigest()


def _parse(cursor: Cursor, size: int) -> Header:
    if cursor.view[:4] != b"GGUF":
        raise BadFileError("does not begin with `GGUF`")

    cursor.skip(4)
    version = cursor.take(U32)
    tensors = cursor.take(U64)
    entries = cursor.take(U64)
    if version not in (2, 3):
        raise BadFileError(f"version {version} is not known")
    if tensors > MAX_TENSORS or entries > MAX_ENTRIES:
        raise BadFileError(f"claims {tensors} tensors and {entries} metadata entries")

    metadata: dict[str, Value] = {}
    for _ in range(entries):
        key = cursor.name(MAX_KEY_BYTES, "a metadata key")
        if key in metadata:
            raise BadFileError(f"metadata `{key}` is there twice")

        kind = cursor.take(U32)
        if key == _ALIGNMENT and kind != UINT32:
            raise BadFileError(f"metadata `{key}` has type {kind}, not {UINT32}")

        metadata[key] = read_value(cursor, key, kind)

    refuse_hazards(cursor.view, metadata)
    claims = [_claim(cursor) for _ in range(tensors)]
    return Header(metadata, _place(claims, cursor.at, _alignment(metadata), size), size)


def _alignment(metadata: dict[str, Value]) -> int:
    alignment = metadata.get(_ALIGNMENT, 32)
    if (
        type(alignment) is not int
        or not 8 <= alignment <= MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise BadFileError(
            f"alignment {str(alignment)[:20]} is not a power of two from 8 to {MAX_ALIGNMENT}"
        )

    return alignment


def _claim(cursor: Cursor) -> _Claim:
    name = cursor.name(MAX_NAME_BYTES, "the name of a tensor")
    count = cursor.take(U32)
    if not 1 <= count <= 4:
        raise BadFileError(f"tensor `{name}` has {count} dimensions")

    shape = tuple(cursor.take(U64) for _ in range(count))
    return name, cursor.take(U32), shape, cursor.take(U64)


def _place(claims: list[_Claim], header_end: int, alignment: int, size: int) -> tuple[Tensor, ...]:
    """Check that the tensors follow each other without a gap and end with the file."""
    start = end = _padded(header_end, alignment)
    tensors: dict[str, Tensor] = {}

    for name, kind, shape, offset in claims:
        if name in tensors:
            raise BadFileError(f"tensor `{name}` is there twice")
        if start + offset != _padded(end, alignment):
            raise BadFileError(f"tensor `{name}` is not where the one before it ends")
        end = start + offset + _tensor_bytes(name, kind, shape)
        tensors[name] = Tensor(name, TYPES[kind][0], shape, start + offset, end - start - offset)

    if size not in ((end, _padded(end, alignment)) if claims else (header_end, start)):
        raise BadFileError(
            f"is {size} bytes long, its header describes {end if claims else header_end}"
        )

    return tuple(tensors.values())


def _tensor_bytes(name: str, kind: int, shape: tuple[int, ...]) -> int:
    if kind not in TYPES:
        raise BadFileError(f"tensor `{name}` has the unknown type {kind}")

    _, block, block_bytes = TYPES[kind]
    elements = 1

    for length in shape:
        elements *= length
        if not 0 < elements <= MAX_ELEMENTS:
            raise BadFileError(f"tensor `{name}` has the shape {list(shape)}")

    if shape[0] % block:
        raise BadFileError(
            f"tensor `{name}` has rows of {shape[0]}, which are not divisible by {block}"
        )

    return elements // block * block_bytes


def _padded(size: int, alignment: int) -> int:
    return (size + alignment - 1) // alignment * alignment
