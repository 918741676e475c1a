"""What was read of all files of a recipe, merged from its shards in their order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from toolchain.errors import ToolchainError
from toolchain.ingest.entries import Document, Entry, Place
from toolchain.ingest.found import Change, Found
from toolchain.ingest.reading import FIRST_ROWS, SHOWN, Dropped, FileRead
from toolchain.ingest.redact.kept import Replaced
from toolchain.ingest.shards.columns import numbers
from toolchain.ingest.shards.folder import OTHER_KEYS, Finished
from toolchain.ingest.shards.room import Room
from toolchain.ingest.shards.values import read_values

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_KEYS = 200
"""Maximum number of unread keys that are counted by name: a table by person has one a row."""


@dataclass(slots=True, kw_only=True)
class Read:
    """What was read, what was dropped, and what is wrong."""

    entries: Sequence[Entry] = ()
    documents: Sequence[Document] = ()
    dropped: Dropped = field(default_factory=Dropped)
    errors: list[ToolchainError] = field(default_factory=list)
    more_errors: int = 0
    """Number of errors that are not named."""
    files: dict[str, FileRead] = field(default_factory=dict)
    found: Found = field(default_factory=Found)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    disagreeing: str = ""
    """Where the first question stands that was asked before, and answered otherwise."""
    unread: tuple[str, ...] = ()
    """Files in the recipe's folders of data that are of no kind that is read."""

    def fail(self, error: ToolchainError) -> None:
        """Keep an error, or count it."""
        if len(self.errors) < SHOWN:
            self.errors.append(error)
        else:
            self.more_errors += 1

    def take(self, shard: Finished) -> None:
        """Add what was read of a shard, and what was found in it."""
        own = shard.read
        for error in own.errors:
            self.fail(error)
        self.more_errors += own.more_errors
        self.dropped.reasons.update(own.reasons)
        self.found.absorb(shard.totals, shard.folder / "findings.jsonl")
        if own.file is None:
            return
        file = self.files.setdefault(shard.name, FileRead(kind=own.file.kind))
        file.rows += own.file.rows
        for form, place in own.file.forms.items():
            file.forms.setdefault(form, place)
        for form, note in own.file.notes.items():
            file.notes.setdefault(form, note)

    def take_values(self, room: Room, number: int, name: str) -> None:
        """Add the values of a shard: what was replaced, and what a dry run shows."""
        for value in read_values(room.values_of(number), name):
            if isinstance(value, Replaced):
                self.found.keep(value)
            elif isinstance(value, Change):
                self.found.show(value)
            elif len(self.files[name].first) < FIRST_ROWS:
                self.files[name].first.append(value)

    def count_keys(self, shard: Finished, kept: "npt.NDArray[np.bool_]") -> None:
        """Count the keys that nobody reads of those entries of a shard that are kept."""
        import numpy as np

        own = numbers(shard.folder / "unread", "I")[kept]
        which, first, counts = np.unique(own, return_index=True, return_counts=True)
        for at in np.argsort(first).tolist():
            for key in shard.unread[int(which[at])]:
                is_known = key in self.unknown_keys or len(self.unknown_keys) < MOST_KEYS
                self.unknown_keys[key if is_known else OTHER_KEYS] += int(counts[at])


def first_dropped(
    shards: Sequence[Finished], others: Mapping[int, list[tuple[Place, str]]]
) -> list[tuple[str, str]]:
    """Return the first rows that were dropped: those of shards, and `others` of theirs."""
    first: list[tuple[str, str]] = []
    for number, shard in enumerate(shards):
        own = [*shard.read.dropped, *others.get(number, ())]
        own.sort(key=lambda each: each[0].line)
        first += [(str(place), reason) for place, reason in own]
        if len(first) >= SHOWN:
            break
    return first[:SHOWN]
