"""Writes safetensors row by row, in bounded memory: the header first, then each tensor's bytes.

Format: safetensors' own specification. Several files share an index, as with `save_pretrained`.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import ArtifactError
from toolchain.files import write_whole
from toolchain.models.weights import INDEX, ITEM_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARD_BYTES = 4_000_000_000
"""Largest size of one file."""
Shapes = Mapping[str, tuple[int, ...]]
Rows = Callable[[str], Iterator["NDArray[np.float32]"]]
"""Name of a tensor → its rows as float32, a block at a time, in order."""


def write_weights(
    out: Path, shapes: Shapes, dtype: str, rows: Rows, *, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write tensors of one element type to one or more files; ArtifactError on a full disk."""
    shards = _shards(shapes, dtype, shard_bytes)
    names = {
        tensor: _file_name(place, len(shards))
        for place, shard in enumerate(shards)
        for tensor in shard
    }
    total = sum(_size(shapes[tensor], dtype) for tensor in names)
    free = shutil.disk_usage(out).free
    if free < total:
        raise ArtifactError(
            f"no room for a checkpoint of {total / 1e6:.0f} MB: {free / 1e6:.0f} MB are free"
        )

    try:
        for place, shard in enumerate(shards):
            with (out / _file_name(place, len(shards))).open("wb") as stream:
                stream.write(_header({name: shapes[name] for name in shard}, dtype))
                for name in shard:
                    for block in rows(name):
                        stream.write(_packed(block, dtype))
                stream.flush()
                os.fsync(stream.fileno())
    except OSError as error:
        raise ArtifactError(
            f"no room for a checkpoint of {total / 1e6:.0f} MB: {error.strerror}"
        ) from error

    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": names}
        write_whole(out / INDEX, json.dumps(index, indent=2) + "\n")


def _shards(shapes: Shapes, dtype: str, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, shape in shapes.items():
        size = _size(shape, dtype)
        if used and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _file_name(place: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{place + 1:05}-of-{count:05}.safetensors"


def _size(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * ITEM_BYTES[dtype]


def _header(shapes: Shapes, dtype: str) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        first, end = end, end + _size(shape, dtype)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _packed(block: "NDArray[np.float32]", dtype: str) -> bytes:
    import numpy as np

    if dtype == "F32":
        return block.astype("<f4", copy=False).tobytes()
    if dtype == "F16":
        return block.astype("<f2").tobytes()
    # bfloat16 is the upper half of a float32: values that came from one are exact, others are
    # rounded to the nearest even.

    bits = np.ascontiguousarray(block, "<f4").view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()
