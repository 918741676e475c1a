"""Blocks of four bits taken apart: each weight is `scale · code − offset` with an integer code.

A scale is the block's leading float16 number, its unit, times a fixed factor. ggml's blocks
(ggml-common.h, `block_q4_0`, `block_q4_1`, `block_q4_K`) are split and joined again bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from toolchain.tools import ggml
from toolchain.tools.ggml import Type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = 32
"""Weights that share a scale and an offset, in each of these types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Scales, offsets and codes of a tensor's weights."""

    unit: "NDArray[np.float32]"
    """[rows, blocks], each a float16 number."""
    times: "NDArray[np.float32]"
    """Each scale as a multiple of its unit, [rows, groups]."""
    offset: "NDArray[np.float32]"
    """[rows, groups]"""
    codes: "NDArray[np.int8]"
    """[rows, columns]"""
    low: int
    """Smallest code; the largest is 15 more."""

    @property
    def scale(self) -> "NDArray[np.float32]":
        """[rows, groups]"""
        scale: NDArray[np.float32] = (
            self.unit.repeat(self.times.shape[1] // self.unit.shape[1], 1) * self.times
        )
        return scale


def split(kind: Type, packed: "NDArray[np.uint8]", columns: int) -> Grid:
    """Return the grid of rows that `ggml.quantize_rows` wrote; `kind` is one of LAYOUTS."""
    import numpy as np

    layout = LAYOUTS[kind]
    rows = packed.size // ggml.row_bytes(kind, columns)
    blocks = _blocks(kind, packed)
    nibbles = blocks[:, layout.head :].reshape(len(blocks), -1, layout.chunk)
    codes = np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(rows, columns).astype(
        np.int8
    ) + np.int8(layout.low)
    unit, times, offset = (
        part.reshape(rows, -1) for part in layout.scales(blocks[:, : layout.head])
    )

    return Grid(unit=unit, times=times, offset=offset, codes=codes, low=layout.low)


def join(
    kind: Type, packed: "NDArray[np.uint8]", codes: "NDArray[np.int8]", unit: "NDArray[np.float32]"
) -> "NDArray[np.uint8]":
    """Return rows with other codes and units; the rest is as it was."""
    import numpy as np

    layout = LAYOUTS[kind]
    blocks = _blocks(kind, packed).copy()
    blocks[:, :2] = unit.astype(np.float16).reshape(-1, 1).view(np.uint8)
    nibbles = (
        (codes - np.int8(layout.low)).astype(np.uint8).reshape(len(blocks), -1, 2, layout.chunk)
    )
    blocks[:, layout.head :] = (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).reshape(len(blocks), -1)
    return blocks.reshape(-1)


def _blocks(kind: Type, packed: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    return packed.reshape(-1, ggml.row_bytes(kind, ggml.block_size(kind)))


Parts: TypeAlias = "tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]"
"""Unit of each block, times and offset of each group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    head: int
    """Bytes of a block before its codes."""
    chunk: int
    """Bytes whose low halves come before their high halves."""
    low: int
    scales: "Callable[[NDArray[np.uint8]], Parts]"
    """Heads of blocks → the unit of each, times and offset of each group."""


def _halves(heads: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """Return the float16 numbers that each head begins with, [blocks, numbers]."""
    import numpy as np

    return np.ascontiguousarray(heads).view(np.float16).astype(np.float32)


def _scale_alone(heads: "NDArray[np.uint8]") -> "Parts":
    import numpy as np

    unit = _halves(heads)
    return unit, np.ones_like(unit), np.zeros_like(unit)


def _scale_and_least(heads: "NDArray[np.uint8]") -> "Parts":
    import numpy as np

    pairs = _halves(heads)
    return pairs[:, :1], np.ones_like(pairs[:, :1]), -pairs[:, 1:]


def _scales_of_256(heads: "NDArray[np.uint8]") -> "Parts":
    import numpy as np
    from gguf.quants import Q4_K

    both = _halves(heads[:, :4])
    scales, least = Q4_K.get_scale_min(heads[:, 4:])
    return both[:, :1], scales.astype(np.float32), both[:, 1:] * least.astype(np.float32)


LAYOUTS = {
    Type.Q4_0: _Layout(head=2, chunk=16, low=-8, scales=_scale_alone),
    Type.Q4_1: _Layout(head=4, chunk=16, low=0, scales=_scale_and_least),
    Type.Q4_K: _Layout(head=16, chunk=32, low=0, scales=_scales_of_256),
}
"""Types that can be split into codes and scales."""
