"""Contents of a recipe's files and their split, as the checks and the stage itself take them."""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from device.manifest.opening import bare, opened
from toolchain.ingest.entries import Entry, Messages, Row, Tools
from toolchain.ingest.reading import Read
from toolchain.ingest.split import Side
from toolchain.opening import Opening
from toolchain.tool_use import said


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Contents of a recipe's files and their split, from the files and the seed alone."""

    read: Read
    train: Side
    held_out: Side
    opening: Opening

    def conversations(self, entries: Sequence[Entry]) -> "Conversations":
        """Return each phrasing of some entries: where it was read, and its conversation."""
        return Conversations(entries, self.opening)

    def texts(self) -> Iterator[str]:
        """Yield the plain texts to learn from."""
        for document in self.read.documents:
            yield document.text
        for entry in self.train:
            yield from _pages(entry)


class Conversations(Sequence[tuple[str, Row]]):
    """Conversations with the place of each, made when they are asked for."""

    def __init__(self, entries: Sequence[Entry], opening: Opening) -> None:
        self._entries = entries
        self._opening = opening
        self._ends = array("L")
        """For each entry the number of conversations up to its last one."""
        for entry in entries:
            self._ends.append(len(self) + len(entry.phrasings))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, number: int) -> tuple[str, Row]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[str, Row]]: ...
    def __getitem__(self, number: int | slice) -> tuple[str, Row] | list[tuple[str, Row]]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = range(len(self))[number]
        which = bisect_right(self._ends, at)
        entry = self._entries[which]
        phrasing = entry.phrasings[at - self._ends[which]]
        return entry.where, _row(phrasing, self._opening, entry.tools)

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for entry in self._entries:
            for phrasing in entry.phrasings:
                yield entry.where, _row(phrasing, self._opening, entry.tools)


def _row(messages: Messages, opening: Opening, tools: Tools) -> Row:
    """Return a conversation with its opening, and the number of the opening's messages."""
    # Nothing is learned of these.
    whole = opened(messages, opening)
    count = len(whole) - len(bare(whole, opening))
    return {
        "messages": list(whole),
        **({"opening": count} if count else {}),
        **({"tools": list(tools)} if tools else {}),
    }


def _pages(entry: Entry) -> list[str]:
    """Return an entry as pages of a manual: the answer, under each phrasing as the heading."""
    return [
        "\n\n".join(said(message) for message in p if message["role"] != "system")
        for p in entry.phrasings
    ]
