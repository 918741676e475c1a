"""Writes a model file's weights: blocks of rows are read, quantized and written by a thread pool.

The kernels release the interpreter lock. A thread holds one block at a time, so memory does not
grow with the model.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.architecture import Source
from toolchain.models.gguf_file import Slot
from toolchain.models.lora import Merged
from toolchain.models.weights import Weights
from toolchain.progress import Reporter
from toolchain.tools import ggml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_WEIGHTS = 1 << 20
"""Weights that a thread holds at a time: a few times 4 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Treatment:
    """Importance and ready bytes of tensors, by their names in the model file."""

    importance: Mapping[str, "NDArray[np.float32]"] = field(default_factory=dict)
    """Weight of the errors of each column."""
    ready: Mapping[str, "NDArray[np.uint8]"] = field(default_factory=dict)
    """Bytes that are already computed, as in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Some whole rows of one tensor; whole heads if rows are regrouped."""

    source: Source
    slot: Slot
    first: int
    count: int


def write_tensors(
    part: Path,
    weights: Weights | Merged,
    planned: Sequence[tuple[Source, Slot]],
    treatment: Treatment,
    report: Reporter,
) -> None:
    """Fill the slots of a file that has its header; raise ArtifactError that names a bad tensor."""
    blocks = [block for source, slot in planned for block in _blocks(source, slot)]
    total = sum(slot.size_bytes for _, slot in planned)
    done, read, began = 0, 0, time.monotonic()

    with part.open("r+b") as stream, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        reserve(stream.fileno(), total)
        written = [
            pool.submit(_write_block, stream.fileno(), weights, block, treatment)
            for block in blocks
        ]

        try:
            for block, size in zip(blocks, written, strict=True):
                done += size.result()
                read += _read_bytes(weights, block)
                speed = read / max(time.monotonic() - began, 1e-3) / 1e9
                report.step(
                    "quantize", done, total, unit="B", figures=f"{speed:.2f} GB/s of weights"
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def reserve(handle: int, total: int) -> None:
    """Reserve the disk space of a file of full size; raise ArtifactError if there is too little."""
    try:
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
    except OSError as error:
        raise ArtifactError(
            f"no room for a model file of {total / 1e6:.0f} MB: {error.strerror}"
        ) from error


def _blocks(source: Source, slot: Slot) -> Iterator[_Block]:
    rows = math.prod(slot.shape[:-1])
    unit = 1
    if source.heads and len(slot.shape) > 1:
        unit = rows // source.heads
    step = max(unit, BLOCK_WEIGHTS // slot.shape[-1] // unit * unit)
    for first in range(0, rows, step):
        yield _Block(source=source, slot=slot, first=first, count=min(step, rows - first))


def _read_bytes(weights: Weights | Merged, block: _Block) -> int:
    if not block.source.origin:
        return 0
    tensor = weights.tensors[block.source.origin]
    return tensor.size_bytes * block.count // max(tensor.rows, 1)


def _write_block(
    handle: int, weights: Weights | Merged, block: _Block, treatment: Treatment
) -> int:
    import numpy as np

    source = block.source
    slot = block.slot
    first, last = block.first * slot.row_bytes, (block.first + block.count) * slot.row_bytes
    packed = np.empty(last - first, np.uint8)

    try:
        if source.name in treatment.ready:
            packed[:] = treatment.ready[source.name][first:last]
        else:
            ggml.quantize_rows(
                slot.type, _read(weights, block), packed, treatment.importance.get(source.name)
            )
    except ValueError as error:
        raise ArtifactError(
            f"{weights.tensors[source.origin].file.name}: tensor `{source.origin}`: {error}"
        ) from error

    left, at = packed.data, slot.offset + first
    while left:
        size = os.pwrite(handle, left, at)
        left, at = left[size:], at + size

    return int(packed.size)


def _read(weights: Weights | Merged, block: _Block) -> "NDArray[np.float32]":
    """Return a block's rows as they are in the file."""
    import numpy as np

    source = block.source
    if source.values is not None:
        return source.values.reshape(1, -1)
    rows = weights.rows(source.origin, block.first, block.count)
    if source.offset:
        rows = rows + np.float32(source.offset)
    return in_file_order(source, rows)


def in_file_order(source: Source, rows: "NDArray[Any]") -> "NDArray[Any]":
    """Return rows of weights, or their bytes, in the file's order: rotary pairs may be adjacent."""
    if not source.heads:
        return rows
    single = rows.reshape(-1, 1) if len(source.shape) == 1 else rows
    return regrouped(single, source.shape[0] // source.heads).reshape(rows.shape)


def regrouped(rows: "NDArray[Any]", head_rows: int) -> "NDArray[Any]":
    """Return heads with adjacent rotary pairs: row 2j+i is row i·d/2+j (conversion/llama.py)."""
    import numpy as np

    halves = rows.reshape(-1, 2, head_rows // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
