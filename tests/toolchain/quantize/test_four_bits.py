"""Codes on Q4_0's grid in other containers: equal values, whatever the order of their nibbles."""

import numpy as np
import pytest
from numpy.typing import NDArray

from toolchain.quantize.four_bits import Codes
from toolchain.quantize.matrices import I4, Packed, Rows
from toolchain.quantize.onnx.schemes import from_q4_0 as onnx_from_q4_0
from toolchain.quantize.tflite.schemes import Packer, from_q4_0, in_q4_0
from toolchain.tools import ggml
from toolchain.tools.ggml import Type


def drawn(rows: int = 6, columns: int = 64, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def read_tflite(packed: Packed, columns: int) -> NDArray[np.float32]:
    """Read signed nibbles, the lower one first, by the description of LiteRT's INT4."""
    low, high = packed[0] & 15, packed[0] >> 4
    codes = np.stack([low, high], axis=1).reshape(-1).astype(np.int16)
    codes = np.where(codes > 7, codes - 16, codes)
    scales = packed[1].view("<f2").astype(np.float32)
    return (codes.reshape(-1, 32) * scales[:, None]).reshape(-1, columns)


def test_blocks_with_positive_scales_mean_the_same_in_each_container() -> None:
    rows = drawn()
    packed = in_q4_0(Type.Q4_0, rows)
    expected = ggml.dequantize_rows(Type.Q4_0, packed, 64)
    assert (read_tflite(from_q4_0(packed), 64) == expected).all()
    codes, scales = onnx_from_q4_0(packed)
    unsigned = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1, 32).astype(np.float32)
    assert ((unsigned - 8) * scales.view(np.float32)[:, None] == expected.reshape(-1, 32)).all()


def test_a_scale_below_zero_changes_its_sign_with_its_codes() -> None:
    rows = drawn(64, 32)
    packed = ggml.pack(Type.Q4_0, rows)
    halves = packed.reshape(-1, 18)[:, :2].copy().view("<f2")
    assert (halves < 0).any()
    got = read_tflite(from_q4_0(packed), 32)
    assert (from_q4_0(packed)[1].view("<f2") > 0).all()
    wanted = ggml.dequantize_rows(Type.Q4_0, packed, 32)
    step = np.abs(halves.astype(np.float32))
    assert (np.abs(got - wanted) <= step).all()
    # Only what is 8 steps away from zero on the other side moves, by one step.
    assert ((got == wanted) | (np.abs(wanted) == 8 * step)).all()


def test_rounding_weighed_by_importance_errs_less_where_it_counts() -> None:
    rows = drawn(64, 32, seed=5)
    weights = np.where(np.arange(32) < 4, 1000.0, 1.0).astype(np.float32)
    errors = []
    for given in (None, weights):
        packed = in_q4_0(Type.Q4_0, rows, given)
        assert (packed.reshape(-1, 18)[:, :2].copy().view("<f2") > 0).all()
        restored = ggml.dequantize_rows(Type.Q4_0, packed, 32)
        errors.append(float(((restored - rows)[:, :4] ** 2).mean()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("value", [0.0, 1e-9, 6e4])
def test_rows_that_are_all_alike_survive(value: float) -> None:
    rows = np.full((2, 32), value, np.float32)
    packed = in_q4_0(Type.Q4_0, rows, np.ones(32, np.float32))
    assert np.abs(read_tflite(from_q4_0(packed), 32) - rows).max() <= max(1e-6, value / 500)


def test_learned_codes_are_stored_as_they_were_learned() -> None:
    rows = drawn()
    learned = in_q4_0(Type.Q4_0, rows * 2)
    packer = Packer(codes=Codes(learned={"w": learned}, pack=in_q4_0))
    kept = packer.pack(Rows(origin="w", first=2, type=I4, values=rows[2:4]))
    other = packer.pack(Rows(origin="v", first=2, type=I4, values=rows[2:4]))
    assert (read_tflite(kept, 64) == ggml.dequantize_rows(Type.Q4_0, learned, 64)[2:4]).all()
    assert (other[1] != kept[1]).any()
