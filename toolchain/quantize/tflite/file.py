"""The TFLite container: the flatbuffer with empty buffers, then each buffer's bytes in its place.

Weights do not pass through the flatbuffer's builder: each is written in its place, and memory does
not grow with the model.
"""

import struct
from pathlib import Path

from toolchain.errors import ArtifactError
from toolchain.quantize.matrices import Promise
from toolchain.quantize.tflite.blueprint import Blueprint

ALIGNMENT = 64
MAX_FILE_BYTES = (1 << 31) - 1
"""Offsets in a flatbuffer are signed 32-bit numbers."""
_DATA_FIELD = 4
"""Place of `Buffer.data` in a vtable."""
_SMALLER = {"fp32": ("fp16", 2.0), "fp16": ("dynamic_wi8_afp32", 2.0)}
"""Scheme → the next smaller one and by how much."""


def write_header(file: Path, blueprint: Blueprint, scheme: str) -> dict[Promise, int]:
    """Write all but the promised bytes in a file of full size; return each promise's offset.

    Raises ArtifactError for a model that is too large for the format, before anything is written.
    """
    head = _packed(blueprint)
    starts, end = _places(blueprint, len(head))
    if end > MAX_FILE_BYTES:
        raise _too_large(scheme, end)

    with file.open("wb") as stream:
        _link(head, starts, blueprint)
        stream.write(head)
        for number, content in enumerate(blueprint.buffers):
            stream.seek(starts[number] - 4)
            stream.write(struct.pack("<I", _size(content)))
            if isinstance(content, bytes):
                stream.write(content)
        stream.truncate(end)

    return {
        content: starts[number]
        for number, content in enumerate(blueprint.buffers)
        if isinstance(content, Promise)
    }


def _packed(blueprint: Blueprint) -> bytearray:
    """Return the flatbuffer with as many empty buffers as there will be full ones."""
    import flatbuffers
    import numpy as np

    def empty(number: int) -> object:
        entry = blueprint.schema.BufferT()
        entry.data = np.empty(0, np.uint8) if number else None
        return entry

    blueprint.model.buffers = [empty(number) for number in range(len(blueprint.buffers))]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(blueprint.model.Pack(builder), b"TFL3")
    return bytearray(builder.Output())


def _places(blueprint: Blueprint, head: int) -> tuple[list[int], int]:
    """Return the offset of each buffer, 4 bytes after its length, and the file's size."""
    starts = []
    end = head
    for content in blueprint.buffers:
        starts.append((end + 4 + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)
        end = starts[-1] + _size(content)
    return starts, end


def _size(content: bytes | Promise) -> int:
    return content.size_bytes if isinstance(content, Promise) else len(content)


def _link(head: bytearray, starts: list[int], blueprint: Blueprint) -> None:
    """Point each buffer but the first at its bytes: an offset counts from where it stands."""
    model = blueprint.schema.Model.GetRootAs(head, 0)
    for number in range(1, len(starts)):
        table = model.Buffers(number)._tab
        field = table.Pos + table.Offset(_DATA_FIELD)
        struct.pack_into("<I", head, field, starts[number] - 4 - field)


def _too_large(scheme: str, size: int) -> ArtifactError:
    limit = f"a TFLite file holds {MAX_FILE_BYTES / 1e9:.2f} GB"
    left = size
    for name, (smaller, factor) in _SMALLER.items():
        left = int(left / factor) if name == scheme or left != size else left
        if left <= MAX_FILE_BYTES and left != size:
            return ArtifactError(
                f"{scheme}: {size / 1e9:.2f} GB, {limit}",
                hint=f"`{smaller}` takes {left / 1e9:.2f} GB",
            )

    return ArtifactError(
        f"{scheme}: {size / 1e9:.2f} GB, {limit}",
        hint='use `formats = ["gguf"]`, which has no such limit',
    )
