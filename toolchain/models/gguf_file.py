"""The GGUF container (ggml docs/gguf.md, version 3): header, and where each tensor's bytes go."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.tools import ggml
from toolchain.tools.ggml import Type

Metadata = dict[str, Any]
"""Values: str, bool, int (u32), float (f32), lists of str, of int (i32) and of float (f32)."""
ALIGNMENT = 32
"""The format's default."""
_BOOL, _STRING, _ARRAY, _UINT32, _INT32, _FLOAT32 = 7, 8, 9, 4, 5, 6
_PACKED = {bool: (_BOOL, "<?"), int: (_UINT32, "<I"), float: (_FLOAT32, "<f")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Place of one tensor in the file."""

    type: Type
    shape: tuple[int, ...]
    """As in the checkpoint: the length of a row last."""
    offset: int
    """Offset of its first byte in the file."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return ggml.row_bytes(self.type, self.shape[-1])

    @property
    def size_bytes(self) -> int:
        """Bytes without the padding behind it."""
        return math.prod(self.shape[:-1]) * self.row_bytes


def write_header(
    file: Path, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Type, tuple[int, ...]]]
) -> dict[str, Slot]:
    """Write the header and reserve the file's full size; return the slot of each tensor."""

    head, slots, size = _laid_out(metadata, tensors)
    with file.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)
    return slots


def file_bytes(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Type, tuple[int, ...]]]
) -> int:
    """Return the bytes that a file would have."""
    return _laid_out(metadata, tensors)[2]


def _laid_out(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[Type, tuple[int, ...]]]
) -> tuple[bytes, dict[str, Slot], int]:
    """Return the header's bytes, the slot of each tensor, and the file's size."""
    entries = b"".join(_string(key) + _value(value) for key, value in metadata.items())
    claims = []
    ends = [0]

    for name, (kind, shape) in tensors.items():
        start = _padded(ends[-1])
        claims.append((name, kind, shape, start))
        ends.append(start + math.prod(shape[:-1]) * ggml.row_bytes(kind, shape[-1]))

    head = (
        struct.pack("<4sIQQ", b"GGUF", 3, len(claims), len(metadata))
        + entries
        + b"".join(_claim(*claim) for claim in claims)
    )
    data = _padded(len(head))
    slots = {
        name: Slot(type=kind, shape=shape, offset=data + start)
        for name, kind, shape, start in claims
    }

    return head, slots, data + _padded(ends[-1])


def _claim(name: str, kind: Type, shape: tuple[int, ...], offset: int) -> bytes:
    return _string(name) + struct.pack(
        f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset
    )


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if isinstance(value, list):
        kind, code = (_FLOAT32, "f") if isinstance(value[0], float) else (_INT32, "i")
        return struct.pack(f"<IIQ{len(value)}{code}", _ARRAY, kind, len(value), *value)
    kind, code = _PACKED[type(value)]
    return struct.pack("<I", kind) + struct.pack(code, value)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padded(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
