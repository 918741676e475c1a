"""A picture squeezed into a square tile, by ggml's own kernel: no numpy travels to a board.

The filter is Pillow's bilinear one (a triangle, wider where a picture becomes smaller), with which
transformers scales; results differ by a rounding. Source: ggml/include/ggml.h, `ggml_interpolate`.
"""

import ctypes
from array import array
from typing import Any

from llama_cpp import llama_cpp as llama

_F32 = 0
_BILINEAR, _ANTIALIAS = 1, 1 << 9
_OVERHEAD_BYTES = 1 << 20
"""Bytes of ggml's own objects beside the numbers of two tensors."""
_POINTER = ctypes.c_void_p


class _Room(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", _POINTER),
        ("no_alloc", ctypes.c_bool),
    )


_SIGNATURES: "dict[str, tuple[Any, ...]]" = {
    "ggml_init": (_POINTER, _Room),
    "ggml_free": (None, _POINTER),
    "ggml_new_tensor_2d": (_POINTER, _POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
    "ggml_get_data": (_POINTER, _POINTER),
    "ggml_interpolate": (_POINTER, *(_POINTER,) * 2, *(ctypes.c_int64,) * 4, ctypes.c_uint32),
    "ggml_new_graph": (_POINTER, _POINTER),
    "ggml_build_forward_expand": (None, _POINTER, _POINTER),
    "ggml_graph_compute_with_ctx": (ctypes.c_int, _POINTER, _POINTER, ctypes.c_int),
}
"""Function → its result and its arguments."""


def squeezed(pixels: bytes, width: int, height: int, side: int) -> bytes:
    """Return RGB pixels, [height, width, 3], as a square tile of `side` pixels, [side, side, 3]."""
    if (width, height) == (side, side):
        return pixels
    assert len(pixels) == 3 * width * height, "ggml trusts its caller"
    tile = bytearray(3 * side * side)
    for colour in range(3):
        tile[colour::3] = _scaled(pixels, colour, width, height, side)
    return bytes(tile)


def _scaled(pixels: bytes, colour: int, width: int, height: int, side: int) -> bytes:
    """Return one colour of a picture, scaled."""
    size = 4 * (width * height + side * side) + _OVERHEAD_BYTES
    room = _call("ggml_init", _Room(size, None, False))
    if not room:
        raise MemoryError
    try:
        given = _call("ggml_new_tensor_2d", room, _F32, width, height)
        place = _call("ggml_get_data", given)
        numbers: Any = (ctypes.c_float * (width * height)).from_address(place)
        numbers[:] = pixels[colour::3]
        mode = _BILINEAR | _ANTIALIAS
        made = _call("ggml_interpolate", room, given, side, side, 1, 1, mode)
        graph = _call("ggml_new_graph", room)
        _call("ggml_build_forward_expand", graph, made)
        if _call("ggml_graph_compute_with_ctx", room, graph, 1):
            raise MemoryError
        found = array("f", ctypes.string_at(_call("ggml_get_data", made), 4 * side * side))
    finally:
        _call("ggml_free", room)
    return bytes(map(round, found))


def _call(name: str, *arguments: Any) -> Any:
    function = getattr(llama._lib, name)
    function.restype, *kinds = _SIGNATURES[name]
    function.argtypes = kinds
    return function(*arguments)
