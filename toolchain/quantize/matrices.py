"""Matrices of a checkpoint in a file: a thread pool reads, packs and writes blocks of rows.

Formats whose rows keep the checkpoint's order share this. A thread holds one block at a time, so
memory is bounded whatever the model's size.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from toolchain.errors import ArtifactError
from toolchain.models.lora import Merged
from toolchain.models.weights import Weights
from toolchain.progress import Reporter
from toolchain.quantize.gguf.write import reserve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

F32, F16, I32, I8, I4 = "FLOAT32", "FLOAT16", "INT32", "INT8", "INT4"
"""Types of stored numbers, as the TFLite schema spells them."""
BITS = {F32: 32, F16: 16, I32: 32, I8: 8, I4: 4}
BLOCK_WEIGHTS = 1 << 18
"""Weights that a thread holds at a time: a few times 1 MB."""
Packed: TypeAlias = "tuple[NDArray[np.uint8], NDArray[np.uint8]]"
"""Bytes of the weights and of the scales of some rows."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of one or more tensors of the checkpoint, below each other."""

    origins: tuple[str, ...]
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Promise:
    """Bytes that are written later: a matrix, or the scales of its rows or blocks."""

    matrix: Matrix
    type: str
    part: str = "weights"
    """`weights` or `scales`."""
    shape: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """First tensor of the checkpoint, number of others, and `.scales` for scales."""
        first, *more = self.matrix.origins
        others = f"+{len(more)}" if more else ""
        suffix = f".{self.part}" if self.part != "weights" else ""
        return first + others + suffix

    @property
    def size_bytes(self) -> int:
        """Bytes of the buffer."""
        return math.prod(self.shape) * BITS[self.type] // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some whole rows of one tensor of the checkpoint."""

    origin: str
    first: int
    type: str
    """Type that they are stored as."""
    values: "NDArray[np.float32]"


Pack: TypeAlias = Callable[[Rows], Packed]
"""Rows → their bytes in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Some whole rows of one tensor of the checkpoint."""

    origin: str
    first: int
    count: int
    type: str
    weights_at: int
    """Byte of the file at which their weights belong."""
    scales_at: int


def write_matrices(
    part: Path,
    weights: Weights | Merged,
    promised: Mapping[Promise, int],
    pack: Pack,
    report: Reporter,
) -> None:
    """Write the promised bytes into a file of full size; raise ArtifactError for bad weights.

    `promised` are the offsets of matrices and of their scales.
    """
    blocks = [
        block
        for promise in promised
        if promise.part == "weights"
        for block in _blocks(weights, promise, promised)
    ]
    total = sum(promise.size_bytes for promise in promised)
    done, read, began = 0, 0, time.monotonic()

    with part.open("r+b") as stream, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        reserve(stream.fileno(), total)
        written = [pool.submit(_write, stream.fileno(), weights, block, pack) for block in blocks]
        try:
            for block, size in zip(blocks, written, strict=True):
                done += size.result()
                read += (
                    weights.tensors[block.origin].size_bytes
                    * block.count
                    // weights.tensors[block.origin].rows
                )
                speed = read / max(time.monotonic() - began, 1e-3) / 1e9
                report.step(
                    "quantize", done, total, unit="B", figures=f"{speed:.2f} GB/s of weights"
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _blocks(
    weights: Weights | Merged, promise: Promise, promised: Mapping[Promise, int]
) -> Iterator[_Block]:
    matrix = promise.matrix
    scales = next(
        (other for other in promised if other.part == "scales" and other.matrix == matrix), None
    )
    step = max(1, BLOCK_WEIGHTS // matrix.columns)
    above = 0

    for origin in matrix.origins:
        rows = weights.tensors[origin].rows
        for first in range(0, rows, step):
            yield _Block(
                origin=origin,
                first=first,
                count=min(step, rows - first),
                type=promise.type,
                weights_at=promised[promise] + promise.size_bytes // matrix.rows * (above + first),
                scales_at=promised[scales] + scales.size_bytes // matrix.rows * (above + first)
                if scales
                else 0,
            )

        above += rows


def _write(handle: int, weights: Weights | Merged, block: _Block, pack: Pack) -> int:
    rows = weights.rows(block.origin, block.first, block.count)
    problem = _problem(rows, block.type)
    if problem:
        raise ArtifactError(
            f"{weights.tensors[block.origin].file.name}: tensor `{block.origin}`: {problem}"
        )
    packed, scales = pack(
        Rows(origin=block.origin, first=block.first, type=block.type, values=rows)
    )
    _put(handle, packed.data.cast("B"), block.weights_at)
    _put(handle, scales.data.cast("B"), block.scales_at)
    return packed.size + scales.size


def _problem(rows: "NDArray[np.float32]", kind: str) -> str:
    import numpy as np

    largest = max(abs(rows.min()), abs(rows.max()))
    if not np.isfinite(largest):
        return "a weight is NaN or infinite"
    return (
        "a weight is too large for FLOAT16"
        if kind == F16 and largest > np.finfo(np.float16).max
        else ""
    )


def _put(handle: int, left: memoryview, at: int) -> None:
    while left:
        size = os.pwrite(handle, left, at)
        left, at = left[size:], at + size
