"""ggml's own kernels that write and read blocks, from llama-cpp-python's library.

The kernels trust their caller: a wrong type aborts the process and a short buffer is overrun. So
every argument is checked here. Source: ggml/include/ggml.h, `ggml_quantize_chunk`.
"""

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from toolchain.errors import ToolError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ROW = 1 << 31
# The kernels count some parts of a row in 32 bits.
"""Longest row, in weights."""


class Type(IntEnum):
    """Tensor types that can be written, with ggml.h's numbers."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30


def verify() -> str:
    """Return the version of ggml; raise ToolError if the library cannot be used."""
    return str(_library().ggml_version().decode())


def block_size(kind: Type) -> int:
    """Return the number of weights in one block; the length of a row must be a multiple of it."""
    return int(_library().ggml_blck_size(Type(kind)))


def row_bytes(kind: Type, length: int) -> int:
    """Return the bytes of a row of `length` weights; raise ValueError if it is not whole blocks."""
    if not 0 < length <= MAX_ROW or length % block_size(kind):
        raise ValueError(f"rows of {length} are not divisible by {block_size(kind)}")
    return int(_library().ggml_row_size(Type(kind), length))


def quantize_rows(
    kind: Type,
    rows: "NDArray[np.float32]",
    out: "NDArray[np.uint8]",
    importance: "NDArray[np.float32] | None" = None,
) -> None:
    """Write `rows` as `kind` into `out`; releases the interpreter lock.

    `rows` is float32 of shape (count, length), `out` has count × row_bytes bytes. `importance`,
    shape (length,), weighs the errors of the columns. Raises ValueError for what the kernels cannot
    take.
    """
    import numpy as np

    if rows.ndim != 2 or rows.dtype != np.float32 or not rows.flags.c_contiguous or not rows.size:
        raise ValueError("rows must be a contiguous float32 matrix")

    count, length = rows.shape
    size = count * row_bytes(kind, length)
    if (
        out.dtype != np.uint8
        or not out.flags.c_contiguous
        or not out.flags.writeable
        or out.size != size
    ):
        raise ValueError(f"the output must be {size} writeable bytes")
    if not np.isfinite(rows.min()) or not np.isfinite(rows.max()):
        raise ValueError("a weight is NaN or infinite")

    _check_importance(kind, importance, length)
    weights = importance.ctypes.data if importance is not None else None
    library = _ready_for(kind)
    written = library.ggml_quantize_chunk(
        Type(kind), rows.ctypes.data, out.ctypes.data, 0, count, length, weights
    )
    if written != size or not library.ggml_validate_row_data(Type(kind), out.ctypes.data, size):
        raise ValueError(f"a weight is too large for {Type(kind).name}")


Pack: TypeAlias = (
    "Callable[[Type, NDArray[np.float32], NDArray[np.float32] | None], NDArray[np.uint8]]"
)
"""Type, rows [rows, columns] and weights of their columns' errors → the rows' bytes."""


def pack(
    kind: Type, rows: "NDArray[np.float32]", importance: "NDArray[np.float32] | None" = None
) -> "NDArray[np.uint8]":
    """Return rows as a model file holds them; raise what `quantize_rows` raises."""
    import numpy as np

    packed = np.empty(len(rows) * row_bytes(kind, rows.shape[1]), np.uint8)
    quantize_rows(kind, np.ascontiguousarray(rows), packed, importance)
    return packed


def dequantize_rows(kind: Type, packed: "NDArray[np.uint8]", length: int) -> "NDArray[np.float32]":
    """Return what the engine reads from rows that `quantize_rows` wrote, shape (count, length).

    Raises ValueError if the bytes are not whole rows.
    """
    import numpy as np

    size = row_bytes(kind, length)
    if (
        packed.dtype != np.uint8
        or not packed.flags.c_contiguous
        or not packed.size
        or packed.size % size
    ):
        raise ValueError(f"rows of {length} weights are {size} bytes each")
    if kind == Type.F32:
        return packed.view(np.float32).reshape(-1, length)

    rows = np.empty((packed.size // size, length), np.float32)
    _reader(kind)(packed.ctypes.data, rows.ctypes.data, rows.size)
    return rows


def _check_importance(kind: Type, importance: "NDArray[np.float32] | None", length: int) -> None:
    import numpy as np

    if importance is None:
        if _library().ggml_quantize_requires_imatrix(Type(kind)):
            raise ValueError(f"{Type(kind).name} needs importance weights")
        return
    if (
        importance.shape != (length,)
        or importance.dtype != np.float32
        or not importance.flags.c_contiguous
    ):
        raise ValueError(f"importance weights must be {length} contiguous float32 values")
    if not np.isfinite(importance).all() or (importance < 0).any():
        raise ValueError("an importance weight is negative, NaN or infinite")


@functools.cache
def _ready_for(kind: Type) -> ctypes.CDLL:
    _library().ggml_quantize_init(kind)
    return _library()


class _Traits(ctypes.Structure):
    """How to read a type (ggml.h, `ggml_type_traits`)."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("bytes", ctypes.c_size_t),
        ("quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@functools.cache
def _reader(kind: Type) -> Callable[[int, int, int], None]:
    traits = _library().ggml_get_type_traits(kind).contents
    if traits.name is None or traits.block != block_size(kind) or not traits.to_float:
        raise ToolError(
            f"ggml does not say how {Type(kind).name} is read",
            hint="pip install the llama-cpp-python of constraints.txt",
        )

    reader: Callable[[int, int, int], None] = traits.to_float
    return reader


@functools.cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("llama_cpp")
    places = (
        [Path(place, "lib", "libggml-base.so") for place in (spec.submodule_search_locations or ())]
        if spec
        else []
    )
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ToolError(
            "llama-cpp-python is not installed, or without its libraries",
            hint="pip install llama-cpp-python",
        )

    try:
        return _declare(ctypes.CDLL(str(found)))
    except (OSError, AttributeError) as error:
        raise ToolError(
            f"{found.name} cannot be used: {error}",
            hint="pip install --force-reinstall llama-cpp-python",
        ) from error


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    kind, count, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_void_p
    signatures = {
        "ggml_version": (ctypes.c_char_p, []),
        "ggml_blck_size": (count, [kind]),
        "ggml_row_size": (size, [kind, count]),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, [kind]),
        "ggml_quantize_init": (None, [kind]),
        "ggml_quantize_chunk": (size, [kind, pointer, pointer, count, count, count, pointer]),
        "ggml_get_type_traits": (ctypes.POINTER(_Traits), [kind]),
        "ggml_validate_row_data": (ctypes.c_bool, [kind, pointer, size]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments

    return library
