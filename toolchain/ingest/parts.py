"""Contents of a recipe's files and their split, as the checks and the stage itself take them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from toolchain.artifacts import Spent
from toolchain.ingest.conversation import conversation, pages
from toolchain.ingest.entries import Row
from toolchain.ingest.read import Read
from toolchain.ingest.shards.room import Room
from toolchain.ingest.shards.views import Entries
from toolchain.ingest.ways import Ways
from toolchain.opening import Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Contents of a recipe's files and their split, from the files and the seed alone."""

    read: Read
    train: Entries
    held_out: Entries
    opening: Opening
    room: Room
    ways: Ways
    spent: Spent = field(default_factory=Spent)
    """Time that this process took to read them, whoever looked first."""

    def conversations(self, entries: Entries) -> "Conversations":
        """Return each phrasing of some entries: where it was read, and its conversation."""
        return Conversations(entries, self.opening)

    def texts(self) -> Iterator[str]:
        """Yield the plain texts to learn from."""
        for document in self.read.documents:
            yield document.text
        for entry in self.train:
            yield from pages(entry)


class Conversations(Sequence[tuple[str, Row]]):
    """Conversations with the place of each, made when they are asked for."""

    def __init__(self, entries: Entries, opening: Opening) -> None:
        self._entries = entries
        self._opening = opening

    def __len__(self) -> int:
        return self._entries.phrasings

    @overload
    def __getitem__(self, number: int) -> tuple[str, Row]: ...
    @overload
    def __getitem__(self, number: slice) -> list[tuple[str, Row]]: ...
    def __getitem__(self, number: int | slice) -> tuple[str, Row] | list[tuple[str, Row]]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        entry = self._entries.conversation(number)
        return entry.where, conversation(entry.phrasings[0], self._opening, entry.tools)

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        for entry in self._entries:
            for phrasing in entry.phrasings:
                yield entry.where, conversation(phrasing, self._opening, entry.tools)
