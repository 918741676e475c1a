"""Protocol buffers, read within bounds: every length is checked and visited fields are counted.

A message is a list of fields. Each begins with its number and one of four kinds: a varint, 8 bytes,
4 bytes, or a length and so many bytes. Source: protobuf.dev, "Encoding". Standard library only,
Python 3.10 up.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from device.manifest.flatbuffer import MAX_ITEMS, MAX_NAME_BYTES, BadFileError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""
_SIGN = 1 << 63


@dataclass(frozen=True)
class Span:
    """Bytes of a field: a text, or a message of its own."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start


class Messages:
    """The messages of one file."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._left = MAX_ITEMS

    def fields(self, span: Span) -> Iterator[tuple[int, int, "int | Span"]]:
        """Yield number, kind and value of each field of a message.

        Numbers of 4 and 8 bytes are given as their bytes.
        """
        at = span.start
        while at < span.end:
            self._left -= 1
            if self._left < 0:
                raise BadFileError(f"more than {MAX_ITEMS:,} fields")

            tag, at = self._varint(at, span.end)
            number, kind = tag >> 3, tag & 7
            if kind == VARINT:
                value, at = self._varint(at, span.end)
                yield number, kind, value
                continue

            if kind == BYTES:
                size, at = self._varint(at, span.end)
            elif kind in (FIXED64, FIXED32):
                size = 8 if kind == FIXED64 else 4
            else:
                raise BadFileError(f"field {number} is of a kind that is not known")
            if size > span.end - at:
                raise BadFileError("points behind its end")
            yield number, kind, Span(at, at + size)
            at += size

    def message(
        self, span: Span, known: Mapping[int, tuple[str, int]], repeated: "frozenset[str]"
    ) -> "dict[str, list[int | Span]]":
        """Return the fields of a message by name.

        `known` names each number that may occur, with its kind. A field that is not `repeated`
        occurs once: parsers differ on what a second one means.
        """
        found: "dict[str, list[int | Span]]" = {}
        for number, kind, value in self.fields(span):
            if number not in known:
                raise BadFileError(f"has field {number}, which no decoder of ours has")

            name, expected = known[number]
            is_packed = kind == BYTES and expected != BYTES and name in repeated
            if kind != expected and not is_packed:
                raise BadFileError(f"`{name}` is of another kind")
            if name in found and name not in repeated:
                raise BadFileError(f"`{name}` is there twice")

            values = self._unpacked(value, expected) if is_packed else [value]
            found.setdefault(name, []).extend(values)

        return found

    def text(self, span: Span) -> str:
        """Return a printable text."""
        if span.size > MAX_NAME_BYTES:
            raise BadFileError(f"a name of {span.size} bytes")
        try:
            text = self.content[span.start : span.end].decode()
        except UnicodeDecodeError as error:
            raise BadFileError("a name that is not UTF-8") from error
        if not text.isprintable():
            raise BadFileError("a name that cannot be printed")
        return text

    def real(self, span: Span) -> float:
        """Return a number of 4 bytes."""
        return float(struct.unpack_from("<f", self.content, span.start)[0])

    def _unpacked(self, value: "int | Span", kind: int) -> "list[int | Span]":
        assert isinstance(value, Span)
        if kind != VARINT:
            raise BadFileError("numbers that are packed in another way")

        values: "list[int | Span]" = []
        at = value.start
        while at < value.end:
            self._left -= 1
            if self._left < 0:
                raise BadFileError(f"more than {MAX_ITEMS:,} fields")
            number, at = self._varint(at, value.end)
            values.append(number)
        return values

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at a position, and the position behind it."""
        value = 0
        for place in range(10):
            if at + place >= end:
                raise BadFileError("points behind its end")
            byte = self.content[at + place]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if value >= 1 << 64:
                    raise BadFileError("a number of more than 64 bits")
                return value, at + place + 1
        raise BadFileError("a number of more than 10 bytes")


def signed(value: "int | Span") -> int:
    """Return a varint as the signed number that it stands for."""
    assert isinstance(value, int)
    return value - (_SIGN << 1) if value >= _SIGN else value
