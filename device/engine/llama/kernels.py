"""Self-test of llama.cpp's arithmetic: small matrix products compared with plain Python's.

It needs no model. A library that was built for another processor dies here, on its first wide
instruction.
"""

import ctypes
import math
from array import array
from typing import Any

from llama_cpp import llama_cpp as llama

from device.errors import DeviceError

FORMATS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "Q6_K": 14}
"""Name of a format → `enum ggml_type`."""
WIDTH, ROWS, COLUMNS = 256, 4, 3
"""Columns of the product: one block of the K formats."""
MAX_ERROR = 0.1
"""Largest allowed error of a product, as a share of the largest product."""
# Q4_0 makes 0.08.
_MEMORY = 1 << 20


class _Memory(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


def exercise() -> dict[str, float]:
    """Return the error of each format's product.

    Raise DeviceError `bad_runtime` for a wrong one.
    """
    errors = {name: round(_error(number), 6) for name, number in FORMATS.items()}
    for name, error in errors.items():
        if not error <= MAX_ERROR:
            raise DeviceError(
                "bad_runtime",
                f"the engine computes wrongly: {name} products are off by {error:.0%}",
            )

    return errors


def _error(kind: int) -> float:
    weights = array("f", (math.sin(0.37 * i * i) for i in range(WIDTH * ROWS)))
    values = array("f", (math.cos(0.61 * i * i) for i in range(WIDTH * COLUMNS)))
    expected = [
        _dot(weights, row, values, column) for column in range(COLUMNS) for row in range(ROWS)
    ]
    found = _product(kind, weights, values)
    largest_error = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    return largest_error / max(map(abs, expected))


def _dot(weights: "array[float]", row: int, values: "array[float]", column: int) -> float:
    return sum(weights[row * WIDTH + i] * values[column * WIDTH + i] for i in range(WIDTH))


def _product(kind: int, weights: "array[float]", values: "array[float]") -> list[float]:
    """Return the product that the library computes with weights stored in a format."""
    memory = _call("ggml_init", _Memory(_MEMORY, None, False))
    try:
        matrix = _call("ggml_new_tensor_2d", memory, kind, _long(WIDTH), _long(ROWS))
        vectors = _call("ggml_new_tensor_2d", memory, FORMATS["F32"], _long(WIDTH), _long(COLUMNS))
        raw = (ctypes.c_float * len(weights))(*weights)
        _call(
            "ggml_quantize_chunk",
            kind,
            raw,
            _call("ggml_get_data", matrix),
            _long(0),
            _long(ROWS),
            _long(WIDTH),
            None,
        )
        ctypes.memmove(_call("ggml_get_data", vectors), values.tobytes(), len(values) * 4)
        product = _call("ggml_mul_mat", memory, matrix, vectors)
        graph = _call("ggml_new_graph", memory)
        _call("ggml_build_forward_expand", graph, product)
        _call("ggml_graph_compute_with_ctx", memory, graph, 1)
        return list(
            (ctypes.c_float * (ROWS * COLUMNS)).from_address(_call("ggml_get_data", product).value)
        )
    finally:
        _call("ggml_free", memory)


def _call(name: str, *arguments: Any) -> Any:
    """Call a function of ggml.h that returns a pointer, or a value that nobody reads."""
    function = getattr(llama._lib, name)
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))


def _long(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)
