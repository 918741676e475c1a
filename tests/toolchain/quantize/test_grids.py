"""Blocks taken apart and put together: every value and every byte as ggml has them."""

import numpy as np
import pytest

from toolchain.quantize.learned import grids
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

ROWS = np.random.default_rng(3).normal(size=(5, 512)).astype(np.float32)
ROWS[2, :256] = 0
"""A row that begins with a block of zeros: its scale is zero."""
IMPORTANCE = {"plain": None, "weighed": np.linspace(0.1, 4, 512, dtype=np.float32)}


@pytest.mark.parametrize("weighed", list(IMPORTANCE))
@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_scale_times_code_less_offset_is_what_ggml_reads_bit_for_bit(
    kind: Type, weighed: str
) -> None:
    packed = ggml.pack(kind, ROWS, IMPORTANCE[weighed])
    grid = grids.split(kind, packed, 512)
    values = grid.codes.reshape(5, -1, grids.GROUP) * grid.scale[..., None] - grid.offset[..., None]
    np.testing.assert_array_equal(
        values.reshape(ROWS.shape), ggml.dequantize_rows(kind, packed, 512)
    )


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_the_same_codes_give_the_same_bytes(kind: Type) -> None:
    packed = ggml.pack(kind, ROWS, None)
    grid = grids.split(kind, packed, 512)
    np.testing.assert_array_equal(grids.join(kind, packed, grid.codes, grid.unit), packed)


@pytest.mark.parametrize("kind", list(grids.LAYOUTS))
def test_other_codes_and_units_come_back_and_the_rest_is_as_it_was(kind: Type) -> None:
    packed = ggml.pack(kind, ROWS, None)
    grid = grids.split(kind, packed, 512)
    other = np.random.default_rng(4).integers(grid.low, grid.low + 16, ROWS.shape, np.int8)
    unit = (grid.unit * 1.5).astype(np.float16).astype(np.float32)
    back = grids.split(kind, grids.join(kind, packed, other, unit), 512)
    np.testing.assert_array_equal(back.codes, other)
    np.testing.assert_array_equal(back.unit, unit)
    np.testing.assert_array_equal(back.times, grid.times)
    np.testing.assert_array_equal(back.offset, grid.offset)
