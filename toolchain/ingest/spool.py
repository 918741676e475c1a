"""Entries and documents in a temporary file: read again in order or by number, never all at once.

A million entries take 1.2 GB as Python objects; in the file they take their own bytes, and here
eight bytes each.
"""

import json
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from toolchain.ingest.entries import Document, Entry, Place, Tools

T = TypeVar("T")
_AHEAD = 4096
"""Number of values that are read from the file at once."""


class Spool(Sequence[T], Generic[T]):
    """A sequence of values that lie in a temporary file, which goes with it."""

    def __init__(self, plain: Callable[[T], Any], value: Callable[[Any], T]) -> None:
        self._plain = plain
        self._value = value
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the spool
        weakref.finalize(self, self._file.close)
        self._ends = array("Q", [0])

    def append(self, value: T) -> None:
        """Add a value to the end."""
        line = json.dumps(self._plain(value), ensure_ascii=False, separators=(",", ":")).encode()
        self._file.seek(self._ends[-1])
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = range(len(self))[number]
        self._file.seek(self._ends[at])
        return self._value(json.loads(self._file.read(self._ends[at + 1] - self._ends[at])))

    def __iter__(self) -> Iterator[T]:
        for first in range(0, len(self), _AHEAD):
            last = min(first + _AHEAD, len(self))
            begin = self._ends[first]
            self._file.seek(begin)
            block = self._file.read(self._ends[last] - begin)
            for at in range(first, last):
                line = block[self._ends[at] - begin : self._ends[at + 1] - begin]
                yield self._value(json.loads(line))


def entries() -> Spool[Entry]:
    """Return an empty spool of entries."""
    pool = _Pool()
    return Spool(
        lambda each: [*_plain_entry(each), pool.number(each.tools)],
        lambda plain: _entry(plain, pool.tools[plain[5]]),
    )


def documents() -> Spool[Document]:
    """Return an empty spool of documents."""
    return Spool(lambda each: [*_plain_place(each.place), each.text], _document)


def _plain_place(place: Place) -> list[Any]:
    return [place.file, place.line, place.unit]


def _place(plain: Sequence[Any]) -> Place:
    return Place(file=plain[0], line=plain[1], unit=plain[2])


def _plain_entry(entry: Entry) -> list[Any]:
    phrasings = [[_plain_message(each) for each in p] for p in entry.phrasings]
    return [*_plain_place(entry.place), phrasings, entry.unknown_keys]


def _plain_message(message: Mapping[str, Any]) -> list[Any]:
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    return [message["role"], message["content"], *([more] if more else [])]


def _message(role: str, content: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"role": role, "content": content, **(more or {})}


class _Pool:
    """Lists of tools, each kept once: thousands of entries share one."""

    def __init__(self) -> None:
        self.tools: list[Tools] = []
        self._numbers: dict[str, int] = {}

    def number(self, tools: Tools) -> int:
        """Return the number of a list of tools."""
        number = self._numbers.setdefault(json.dumps(tools), len(self.tools))
        if number == len(self.tools):
            self.tools.append(tools)
        return number


def _entry(plain: Sequence[Any], tools: Tools) -> Entry:
    return Entry(
        place=_place(plain),
        phrasings=tuple(tuple(_message(*message) for message in phrasing) for phrasing in plain[3]),
        unknown_keys=tuple(plain[4]),
        tools=tools,
    )


def _document(plain: Sequence[Any]) -> Document:
    return Document(place=_place(plain), text=plain[3])
