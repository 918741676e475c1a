"""Writes what is learned and what is held out of one shard, as the data set will hold it."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from toolchain.artifacts import jsonl_line
from toolchain.files import whole_file
from toolchain.ingest.conversation import conversation, pages
from toolchain.ingest.shards.columns import numbers
from toolchain.ingest.shards.room import Room, store_of
from toolchain.ingest.shards.seals import are_whole, digests_of, read_sealed, write_sealed
from toolchain.ingest.shards.views import Entries
from toolchain.ingest.split import HELD_OUT, LEARNED
from toolchain.tool_use import said

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PARTS = ("train", "held_out", "pages")


@dataclass(slots=True)
class Sizes:
    """Lengths of some texts in characters."""

    count: int = 0
    total: int = 0
    longest: int = 0

    def add(self, size: int) -> None:
        """Add the length of one text."""
        self.count += 1
        self.total += size
        self.longest = max(self.longest, size)

    def join(self, other: Mapping[str, int]) -> None:
        """Add the lengths of others."""
        self.count += other["count"]
        self.total += other["total"]
        self.longest = max(self.longest, other["longest"])


@dataclass(slots=True)
class Lengths:
    """Lengths of all that is written."""

    questions: Sizes = field(default_factory=Sizes)
    answers: Sizes = field(default_factory=Sizes)
    texts: Sizes = field(default_factory=Sizes)


def write_shard(room: Room, number: int, opening: Sequence[Mapping[str, str]]) -> None:
    """Write the rows of one shard, and last their lengths: with these it is finished."""
    states = _states(room.states, (room.states).stat().st_mtime_ns)
    store = store_of(room)
    lengths = Lengths()
    with ExitStack() as stack:
        streams = {
            part: stack.enter_context(_part(room, number, part).open("w", encoding="utf-8"))
            for part in PARTS
        }
        for state, part in ((LEARNED, "train"), (HELD_OUT, "held_out")):
            entries = Entries(store, states, state, state).of_shard(number)
            for entry in entries:
                for messages in entry.phrasings:
                    lengths.questions.add(len(said(messages[-2])))
                    lengths.answers.add(len(said(messages[-1])))
                    row = conversation(messages, opening, entry.tools)
                    streams[part].write(jsonl_line(row))
                if state == LEARNED:
                    _write_pages(pages(entry), streams["pages"], lengths.texts)
    # What goes with the process is not read by another one.
    digests = {} if room.shows else digests_of(_part(room, number, part) for part in PARTS)
    content = {"lengths": asdict(lengths), "digests": digests}
    write_sealed(_lengths(room, number), content, lasting=not room.shows)


def _write_pages(texts: Iterable[str], stream: IO[str], sizes: Sizes) -> None:
    for text in texts:
        sizes.add(len(text))
        stream.write(jsonl_line({"text": text}))


def is_written(room: Room, number: int) -> bool:
    """Say whether a shard was written before, and is kept as it was written."""
    try:
        return are_whole(room.shard(number), read_sealed(_lengths(room, number))["digests"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def lengths_of(room: Room, count: int) -> Lengths:
    """Return the lengths of what all shards wrote."""
    total = Lengths()
    for number in range(count):
        each: dict[str, Any] = read_sealed(_lengths(room, number))["lengths"]
        for name, sizes in each.items():
            getattr(total, name).join(sizes)
    return total


def join_parts(room: Room, count: int, out: Path, documents: Iterable[Mapping[str, str]]) -> None:
    """Write the files of a data set from what the shards wrote, `documents` before the pages."""
    for part, name in (("train", "train"), ("held_out", "held_out"), ("pages", "texts")):
        with whole_file(out / f"{name}.jsonl") as whole, whole.open("wb") as stream:
            if part == "pages":
                stream.writelines(jsonl_line(each).encode() for each in documents)
            for number in range(count):
                with _part(room, number, part).open("rb") as own:
                    shutil.copyfileobj(own, stream, 1 << 20)


def remove_parts(room: Room, count: int) -> None:
    """Remove what was joined."""
    for number in range(count):
        _lengths(room, number).unlink(missing_ok=True)
        for part in PARTS:
            _part(room, number, part).unlink(missing_ok=True)


@lru_cache(maxsize=1)
def _states(path: Path, changed_ns: int) -> "npt.NDArray[np.uint8]":
    return numbers(path, "B")


def _part(room: Room, number: int, part: str) -> Path:
    return room.shard(number) / f"out-{part}.jsonl"


def _lengths(room: Room, number: int) -> Path:
    return room.shard(number) / "lengths.json"
