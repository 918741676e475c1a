"""The quantize kernels: right bytes for right arguments, ValueError for others, never an abort."""

import gguf
import numpy as np
import pytest

from toolchain.tools import ggml
from toolchain.tools.ggml import Type

ROWS = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32)


def quantized(kind: Type, rows: np.ndarray) -> np.ndarray:
    out = np.zeros(rows.shape[0] * ggml.row_bytes(kind, rows.shape[1]), np.uint8)
    ggml.quantize_rows(kind, rows, out)
    return out


def test_the_library_says_its_version() -> None:
    assert ggml.verify().count(".") == 2


@pytest.mark.parametrize("kind", list(Type))
def test_block_and_row_sizes_are_those_of_the_format(kind: Type) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    assert ggml.block_size(kind) == block
    assert ggml.row_bytes(kind, 512) == 512 // block * block_bytes


@pytest.mark.parametrize(
    "kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q5_0, Type.Q5_1]
)
def test_bytes_are_those_of_the_reference_in_python(kind: Type) -> None:
    expected = gguf.quants.quantize(ROWS, gguf.GGMLQuantizationType(kind))
    np.testing.assert_array_equal(quantized(kind, ROWS), expected.view(np.uint8).reshape(-1))


@pytest.mark.parametrize(
    ("kind", "most"), [(Type.Q4_K, 0.1), (Type.Q5_K, 0.05), (Type.Q6_K, 0.025)]
)
def test_blocks_of_256_come_back_near_what_they_were(kind: Type, most: float) -> None:
    back = gguf.quants.dequantize(quantized(kind, ROWS), gguf.GGMLQuantizationType(kind)).reshape(
        ROWS.shape
    )
    assert 0 < np.sqrt(np.mean((back - ROWS) ** 2)) < most


def test_importance_changes_what_is_kept() -> None:
    out = np.zeros(3 * ggml.row_bytes(Type.Q4_K, 512), np.uint8)
    weights = np.linspace(0, 4, 512, dtype=np.float32)
    ggml.quantize_rows(Type.Q4_K, ROWS, out, weights)
    assert (out != quantized(Type.Q4_K, ROWS)).any()


def room(size: int, dtype: type = np.uint8) -> np.ndarray:
    return np.zeros(size, dtype)


def with_a(value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[1, 7] = value
    return rows


Q4_ROOM, F16_ROOM = 3 * 16 * 18, 3 * 512 * 2
REFUSED = {
    "no such type": (99, ROWS, room(Q4_ROOM), None, "99 is not a valid Type"),
    "rows of another length": (
        Type.Q4_K,
        ROWS[:, :300].copy(),
        room(Q4_ROOM),
        None,
        "rows of 300 are not divisible by 256",
    ),
    "no rows": (Type.Q4_0, ROWS[:0], room(0), None, "rows must be a contiguous float32 matrix"),
    "a vector": (
        Type.Q4_0,
        ROWS[0],
        room(16 * 18),
        None,
        "rows must be a contiguous float32 matrix",
    ),
    "doubles": (
        Type.Q4_0,
        ROWS.astype(np.float64),
        room(Q4_ROOM),
        None,
        "rows must be a contiguous float32 matrix",
    ),
    "strided": (
        Type.Q4_0,
        ROWS[:, ::2],
        room(Q4_ROOM // 2),
        None,
        "rows must be a contiguous float32 matrix",
    ),
    "one byte short": (
        Type.Q4_0,
        ROWS,
        room(Q4_ROOM - 1),
        None,
        f"the output must be {Q4_ROOM} writeable bytes",
    ),
    "one byte long": (
        Type.Q4_0,
        ROWS,
        room(Q4_ROOM + 1),
        None,
        f"the output must be {Q4_ROOM} writeable bytes",
    ),
    "floats as output": (
        Type.Q4_0,
        ROWS,
        room(Q4_ROOM, np.float32),
        None,
        f"the output must be {Q4_ROOM} writeable bytes",
    ),
    "NaN": (Type.Q4_0, with_a(np.nan), room(Q4_ROOM), None, "a weight is NaN or infinite"),
    "infinite": (Type.Q4_0, with_a(-np.inf), room(Q4_ROOM), None, "a weight is NaN or infinite"),
    "too large for half floats": (
        Type.F16,
        with_a(1e6),
        room(F16_ROOM),
        None,
        "a weight is too large for F16",
    ),
    "needs importance": (
        Type.IQ2_XXS,
        ROWS,
        room(3 * 2 * 66),
        None,
        "IQ2_XXS needs importance weights",
    ),
    "short importance": (
        Type.Q4_0,
        ROWS,
        room(Q4_ROOM),
        ROWS[0, :9],
        "importance weights must be 512 contiguous float32 values",
    ),
    "negative importance": (
        Type.Q4_0,
        ROWS,
        room(Q4_ROOM),
        ROWS[0],
        "an importance weight is negative, NaN or infinite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_kernels_cannot_take_is_refused_before_them(case: str) -> None:
    kind, rows, out, importance, message = REFUSED[case]
    with pytest.raises(ValueError) as caught:
        ggml.quantize_rows(kind, rows, out, importance)
    assert str(caught.value) == message


def test_a_write_protected_output_is_refused() -> None:
    out = room(Q4_ROOM)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        ggml.quantize_rows(Type.Q4_0, ROWS, out)


@pytest.mark.parametrize(
    "kind",
    [
        Type.F32,
        Type.F16,
        Type.BF16,
        Type.Q8_0,
        Type.Q4_0,
        Type.Q4_1,
        Type.Q4_K,
        Type.Q6_K,
        Type.IQ4_XS,
    ],
)
def test_rows_are_read_back_as_the_reference_in_python_reads_them(kind: Type) -> None:
    packed = quantized(kind, ROWS)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(kind)).reshape(ROWS.shape)
    np.testing.assert_array_equal(ggml.dequantize_rows(kind, packed, 512), expected)


@pytest.mark.parametrize("packed", [room(0), room(287), room(288).astype(np.int8), room(576)[::2]])
def test_bytes_that_are_no_whole_rows_are_not_read(packed: np.ndarray) -> None:
    with pytest.raises(ValueError, match="rows of 512 weights are 288 bytes each"):
        ggml.dequantize_rows(Type.Q4_0, packed, 512)
