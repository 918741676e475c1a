"""FlatBuffers tables, read within bounds: every offset is checked and visited items are counted.

Offsets count from where they stand. A table begins with its distance to the vtable, which has the
position of each field. Standard library only, Python 3.10 up.
"""

import mmap
import struct
from collections.abc import Iterator

MAX_ITEMS = 1 << 20
"""Maximum number of items in all visited vectors."""
MAX_NAME_BYTES = 1 << 10


class BadFileError(Exception):
    """A fault whose file is not known yet."""


class Tables:
    """The tables of one file."""

    def __init__(self, view: mmap.mmap) -> None:
        self.view = view
        self.end = len(view)
        self._left = MAX_ITEMS

    def u32(self, at: int) -> int:
        """Return the 32-bit number at a position."""
        return int(struct.unpack_from("<I", self.view, at)[0])

    def follow(self, at: int) -> int:
        """Return the position that the offset at `at` leads to."""
        place = at + self.u32(at)
        if place == at or place + 4 > self.end:
            raise BadFileError("points behind its end")
        return place

    def table(self, at: int) -> dict[int, int]:
        """Return number → position of the fields that a table has."""
        self.count(1)
        vtable = at - int(struct.unpack_from("<i", self.view, at)[0])
        if not 0 <= vtable <= self.end - 4:
            raise BadFileError("a table without a description")

        length, size = struct.unpack_from("<HH", self.view, vtable)
        if length < 4 or length % 2 or at + size > self.end or length > 256:
            raise BadFileError("a table with a broken description")

        places = struct.unpack_from(f"<{length // 2 - 2}H", self.view, vtable + 4)
        if any(place >= size or 0 < place < 4 for place in places):
            raise BadFileError("a field outside of its table")

        return {number: at + place for number, place in enumerate(places) if place}

    def tables(
        self, table: dict[int, int], field: int, most: int = MAX_ITEMS
    ) -> Iterator[dict[int, int]]:
        """Yield the tables of a vector of at most `most`; none if the table has no such field."""
        if field not in table:
            return

        start, count = self.vector(table[field], 4)
        if count > most:
            raise BadFileError(f"claims {count} parts of one kind")

        for at in range(start, start + 4 * count, 4):
            yield self.table(self.follow(at))

    def vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Return position and number of a vector's items."""
        place = self.follow(field)
        count = self.u32(place)
        if count * item_bytes > self.end - place - 4:
            raise BadFileError("a vector that is longer than the file")

        self.count(count)
        return place + 4, count

    def length(self, table: dict[int, int], field: int, item_bytes: int) -> int:
        """Return the number of items of a vector; 0 if the table has no such field."""
        return self.vector(table[field], item_bytes)[1] if field in table else 0

    def numbers(self, table: dict[int, int], field: int, code: str, most: int) -> tuple[int, ...]:
        """Return a vector of at most `most` numbers; empty if the table has no such field."""
        if field not in table:
            return ()

        start, count = self.vector(table[field], struct.calcsize(code))
        if count > most:
            raise BadFileError(f"a vector of {count} numbers where {most} are possible")

        return struct.unpack_from(f"<{count}{code[1:]}", self.view, start)

    def references(
        self, table: dict[int, int], fields: tuple[int, ...], tensors: int, *, none: bool = False
    ) -> None:
        """Check that vectors of indices name existing tensors; -1 is allowed if `none` is set."""
        for field in fields:
            for index in self.numbers(table, field, "<i", 1 << 12):
                if not (0 <= index < tensors or (none and index == -1)):
                    raise BadFileError(f"names tensor {index} of {tensors}")

    def number(self, table: dict[int, int], field: int, code: str, default: int = 0) -> int:
        """Return a number of a table; `default` if it has no such field."""
        return (
            int(struct.unpack_from(code, self.view, table[field])[0]) if field in table else default
        )

    def text(self, table: dict[int, int], field: int) -> str:
        """Return a printable text of a table; empty if it has no such field."""
        if field not in table:
            return ""

        start, count = self.vector(table[field], 1)
        if count > MAX_NAME_BYTES:
            raise BadFileError(f"a name of {count} bytes")

        text = self.view[start : start + count].decode("utf-8", "replace")
        if not text.isprintable():
            raise BadFileError("a name that cannot be printed")

        return text

    def count(self, items: int) -> None:
        """Count visited items; raise BadFileError beyond MAX_ITEMS."""
        self._left -= items
        if self._left < 0:
            raise BadFileError(f"more than {MAX_ITEMS} parts")
