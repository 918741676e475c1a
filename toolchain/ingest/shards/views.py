"""Entries and documents of all shards as one sequence each, read again from their folders."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar, overload

from toolchain.ingest.entries import Document, Entry
from toolchain.ingest.shards.columns import LinesRead, lines_in, numbers
from toolchain.ingest.shards.folder import Finished, document_of, entry_of
from toolchain.ingest.split import LEFT_OUT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_OPEN = 32
"""Shards whose files are open at once."""
_BLOCK = 1 << 16


T = TypeVar("T")


class Recent(Generic[T]):
    """What was made last by number. Its owner is not held, and goes at once with its files."""

    def __init__(self, most: int, make: Callable[[int], T]) -> None:
        self._most = most
        self._make = make
        self._made: dict[int, T] = {}

    def of(self, number: int) -> T:
        """Return what belongs to a number."""
        if number not in self._made:
            if len(self._made) >= self._most:
                self._made.pop(next(iter(self._made)))
            self._made[number] = self._make(number)
        return self._made[number]


class Store:
    """Entries and documents of all shards by their numbers, whatever becomes of them."""

    def __init__(self, shards: Sequence[Finished]) -> None:
        self.shards = shards
        self.entries = [0, *accumulate(each.entries for each in shards)]
        self.phrasings = [0, *accumulate(each.phrasings for each in shards)]
        self.documents = [0, *accumulate(each.documents for each in shards)]
        self._parts = Recent(_OPEN, partial(_opened, shards))
        self._pages = Recent(_OPEN, partial(_opened_pages, shards))

    def ends(self, shard: int) -> "npt.NDArray[np.uint32]":
        """Return for each entry of a shard the number of phrasings up to its last one."""
        return self._parts.of(shard).ends

    def entry(self, number: int) -> Entry:
        """Return an entry with all of its phrasings."""
        shard = bisect_right(self.entries, number) - 1
        return self._parts.of(shard).entry(number - self.entries[shard])

    def phrasing(self, number: int) -> tuple[int, int]:
        """Return the numbers of a phrasing's entry, and of the phrasing in it."""
        shard = bisect_right(self.phrasings, number) - 1
        ends = self._parts.of(shard).ends
        at = number - self.phrasings[shard]
        entry = int(ends.searchsorted(at, side="right"))
        begin = int(ends[entry - 1]) if entry else 0
        return self.entries[shard] + entry, at - begin

    def document(self, number: int) -> Document:
        """Return a document."""
        shard = bisect_right(self.documents, number) - 1
        line = self._pages.of(shard)[number - self.documents[shard]]
        return document_of(self.shards[shard].name, line)


def _opened(shards: Sequence[Finished], shard: int) -> "_Part":
    finished = shards[shard]
    ends = numbers(finished.folder / "phrasings", "I").cumsum(dtype="uint32")
    return _Part(finished, LinesRead(finished.folder / "entries.jsonl"), ends)


def _opened_pages(shards: Sequence[Finished], shard: int) -> LinesRead:
    return LinesRead(shards[shard].folder / "documents.jsonl")


@dataclass(frozen=True, slots=True)
class _Part:
    finished: Finished
    lines: LinesRead
    ends: "npt.NDArray[np.uint32]"

    def entry(self, number: int) -> Entry:
        return _entry(self.finished, self.lines[number])


def _entry(shard: Finished, line: str) -> Entry:
    plain = json.loads(line)
    return entry_of(shard.name, plain, shard.tools, plain[3])


class Entries(Sequence[Entry]):
    """Entries with those of their phrasings whose state is one of `least` to `most`."""

    def __init__(
        self, store: Store, states: "npt.NDArray[np.uint8]", least: int = LEFT_OUT, most: int = 255
    ) -> None:
        self.store = store
        self._selected = Recent(_OPEN, partial(_selection, store, states, (least, most)))
        self._ends: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self._counts()[-1][0]

    @property
    def phrasings(self) -> int:
        """Number of phrasings of all entries."""
        return self._counts()[-1][1]

    @overload
    def __getitem__(self, number: int) -> Entry: ...
    @overload
    def __getitem__(self, number: slice) -> list[Entry]: ...
    def __getitem__(self, number: int | slice) -> Entry | list[Entry]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = range(len(self))[number]
        shard = bisect_right(self._counts(), at, key=lambda counts: counts[0]) - 1
        _, entries = self._select(shard)
        own = int(entries[at - self._counts()[shard][0]])
        begin, end = self._bounds(shard, own)
        kept = self._select(shard)[0][begin:end].tobytes()
        return _with(self.store.entry(self.store.entries[shard] + own), kept)

    def conversation(self, number: int) -> Entry:
        """Return a phrasing, by its number among those here, as an entry of its own."""
        at = range(self.phrasings)[number]
        shard = bisect_right(self._counts(), at, key=lambda counts: counts[1]) - 1
        selected, _ = self._select(shard)
        own = int(selected.nonzero()[0][at - self._counts()[shard][1]])
        entry, phrasing = self.store.phrasing(self.store.phrasings[shard] + own)
        found = self.store.entry(entry)
        return _with(found, bytes(at == phrasing for at in range(len(found.phrasings))))

    def __iter__(self) -> Iterator[Entry]:
        for shard in range(len(self.store.shards)):
            yield from self.of_shard(shard)

    def of_shard(self, shard: int) -> Iterator[Entry]:
        """Yield the entries of one shard."""
        finished = self.store.shards[shard]
        selected, _ = self._select(shard)
        kept = selected.tobytes()
        begin = 0
        lines = lines_in(finished.folder / "entries.jsonl")
        for end, line in zip(_each(self.store.ends(shard)), lines, strict=True):
            if any(own := kept[begin:end]):
                yield _with(_entry(finished, line), own)
            begin = end

    def _bounds(self, shard: int, entry: int) -> tuple[int, int]:
        ends = self.store.ends(shard)
        return int(ends[entry - 1]) if entry else 0, int(ends[entry])

    def _select(self, shard: int) -> "_Selection":
        return self._selected.of(shard)

    def _counts(self) -> list[tuple[int, int]]:
        """Return the numbers of entries and phrasings before each shard, and those of all."""
        if not self._ends:
            entries = phrasings = 0
            self._ends.append((0, 0))
            for shard in range(len(self.store.shards)):
                selected, own = self._select(shard)
                entries, phrasings = entries + len(own), phrasings + int(selected.sum())
                self._ends.append((entries, phrasings))
        return self._ends


_Selection: TypeAlias = "tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]"
"""Which phrasings of a shard are chosen, and the numbers of their entries."""


def _selection(
    store: Store, states: "npt.NDArray[np.uint8]", limits: tuple[int, int], shard: int
) -> _Selection:
    import numpy as np

    first, last = store.phrasings[shard : shard + 2]
    own = states[first:last]
    selected = (own >= limits[0]) & (own <= limits[1])
    ends = store.ends(shard)
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    some = np.logical_or.reduceat(selected, begins) if len(ends) else selected
    return selected, np.flatnonzero(some)


def _each(values: "npt.NDArray[np.uint32]") -> Iterator[int]:
    """Yield numbers of an array: as Python's all together would take ten times the room."""
    for first in range(0, len(values), _BLOCK):
        yield from values[first : first + _BLOCK].tolist()


def _with(entry: Entry, kept: bytes) -> Entry:
    """Return an entry with some of its phrasings: those that have a byte that is not zero."""
    if all(kept):
        return entry
    phrasings = tuple(p for p, is_kept in zip(entry.phrasings, kept, strict=True) if is_kept)
    return Entry(
        place=entry.place,
        phrasings=phrasings,
        unknown_keys=entry.unknown_keys,
        tools=entry.tools,
    )


class Documents(Sequence[Document]):
    """Documents that are kept."""

    def __init__(self, store: Store, kept: "npt.NDArray[np.bool_]") -> None:
        self.store = store
        self._kept = kept

    def __len__(self) -> int:
        return int(self._kept.sum())

    @overload
    def __getitem__(self, number: int) -> Document: ...
    @overload
    def __getitem__(self, number: slice) -> list[Document]: ...
    def __getitem__(self, number: int | slice) -> Document | list[Document]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = range(len(self))[number]
        return self.store.document(int(self._kept.nonzero()[0][at]))

    def __iter__(self) -> Iterator[Document]:
        for shard, finished in enumerate(self.store.shards):
            first = self.store.documents[shard]
            path: Path = finished.folder / "documents.jsonl"
            for at, line in enumerate(lines_in(path)):
                if self._kept[first + at]:
                    yield document_of(finished.name, line)
