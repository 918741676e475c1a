"""The values in a GGUF header, read within bounds: numbers, texts and arrays.

A `Cursor` moves over the header and never beyond the file. Standard library only, Python 3.10 up.
"""

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_ITEMS = 1 << 20
"""Maximum number of strings in all arrays."""
MAX_TEXT_BYTES = 1 << 20
KEPT_ITEMS = 64
"""Length from which on an array is skipped and only counted."""

UINT32, _BOOL, STRING, _ARRAY = 4, 7, 8, 9
_CODES = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    _BOOL: "B",
    10: "Q",
    11: "q",
    12: "d",
}
_SCALARS = {kind: struct.Struct("<" + code) for kind, code in _CODES.items()}
U32, U64 = _SCALARS[4], _SCALARS[10]


@dataclass(frozen=True)
class Array:
    """An array that was counted and skipped."""

    kind: int
    """Type number of its items."""
    count: int
    offset: int = field(default=0, compare=False)
    """Offset of its first item in the file."""


Value = int | float | bool | str | tuple[Any, ...] | Array


class BadFileError(Exception):
    """A fault whose file is not known yet."""


class Cursor:
    """A position in the header that only moves forward.

    Reading past the end raises struct.error.
    """

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.at = 0
        self.items_left = MAX_ITEMS

    def take(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.view, self.at)
        self.at += layout.size
        return value

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.view):
            raise struct.error

    def name(self, limit: int, what: str) -> str:
        """Return a string that can be printed."""
        text = self.text(limit, what)
        if not text or not text.isprintable():
            raise BadFileError(f"{what} is empty or not printable")
        return text

    def text(self, limit: int, what: str) -> str:
        """Return a string of at most `limit` bytes."""
        length = self.take(U64)
        if length > limit:
            raise BadFileError(f"{what} is {length} bytes long, more than {limit}")

        start = self.at
        self.skip(length)

        try:
            return self.view[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise BadFileError(f"{what} is not UTF-8") from None


def read_value(cursor: Cursor, key: str, kind: int) -> Value:
    """Return the value of a metadata entry; a long array is skipped and only counted."""
    value: Value = _array(cursor, key) if kind == _ARRAY else _reader(cursor, key, kind)()
    return value


def _reader(cursor: Cursor, key: str, kind: int) -> Callable[[], Any]:
    if kind == STRING:
        return lambda: cursor.text(MAX_TEXT_BYTES, f"metadata `{key}`")
    if kind == _BOOL:
        return lambda: _bool(cursor, key)
    if kind not in _SCALARS:
        raise BadFileError(f"metadata `{key}` has the unknown type {kind}")

    return lambda: cursor.take(_SCALARS[kind])


def _bool(cursor: Cursor, key: str) -> bool:
    byte = cursor.take(_SCALARS[_BOOL])
    if byte > 1:
        raise BadFileError(f"metadata `{key}` is neither true nor false")
    return bool(byte)


def _array(cursor: Cursor, key: str) -> Value:
    kind = cursor.take(U32)
    count = cursor.take(U64)
    if kind == _ARRAY:
        raise BadFileError(f"metadata `{key}` is an array of arrays")

    read = _reader(cursor, key, kind)
    if count <= KEPT_ITEMS:
        return tuple(read() for _ in range(count))

    offset = cursor.at
    if kind == STRING:
        _skip_strings(cursor, key, count)
    else:
        cursor.skip(count * _SCALARS[kind].size)

    return Array(kind, count, offset)


def _skip_strings(cursor: Cursor, key: str, count: int) -> None:
    cursor.items_left -= count
    if cursor.items_left < 0:
        raise BadFileError(f"metadata `{key}` claims {count} strings")

    view = cursor.view
    at = cursor.at
    unpack = U64.unpack_from

    for _ in range(count):
        (length,) = unpack(view, at)
        if length > MAX_TEXT_BYTES:
            raise BadFileError(
                f"a string of `{key}` is {length} bytes long, more than {MAX_TEXT_BYTES}"
            )
        at += 8 + length

    cursor.skip(at - cursor.at)
