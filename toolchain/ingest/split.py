"""The split of entries by each entry's own text and the seed, and the two sides of it.

Nothing else decides, so that other entries may come and go.
"""

import hashlib
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

from toolchain.ingest.entries import Entry, Messages
from toolchain.recipe import DataSpec
from toolchain.tool_use import said

LEARNED, WHOLE, LEFT_OUT = -1, -2, -3
"""Marks of an entry that is learned as a whole, of one that is held out as a whole, and of one that
a round does not replay. Below these: `LEFT_OUT` less the number of the phrasing that is held out of
such an entry, less one."""


def question_key(messages: Messages) -> str:
    """Return what repeated questions share: all but the answer, without case, spaces, end marks."""
    asked = "\0".join(said(message) for message in messages[:-1] if message["role"] != "system")
    return plain_key(asked)


def plain_key(text: str) -> str:
    """Return a text without case, spaces and end marks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" ?!.。")


def key_digest(key: str) -> int:
    """Return 64 bits of a key: a million of them take 60 MB, and the keys themselves 200."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Side(Sequence[Entry]):
    """Entries of one side of the split, read from where all entries lie."""

    entries: Sequence[Entry]
    chosen: "array[int]"
    """For each entry the number of the phrasing that is held out, or `LEARNED`, or `WHOLE`."""
    is_held_out: bool
    numbers: "array[int]"
    """Numbers of the entries that have something on this side."""

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, number: int) -> Entry: ...
    @overload
    def __getitem__(self, number: slice) -> list[Entry]: ...
    def __getitem__(self, number: int | slice) -> Entry | list[Entry]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        at = self.numbers[number]
        return self._part(self.entries[at], self.chosen[at])

    def __iter__(self) -> Iterator[Entry]:
        for entry, chosen in zip(self.entries, self.chosen, strict=True):
            if _is_on(chosen, self.is_held_out):
                yield self._part(entry, chosen)

    def has(self, number: int, phrasing: int) -> bool:
        """Say whether a phrasing of an entry, by their numbers, is on this side."""
        chosen = self.chosen[number]
        if self.is_held_out:
            return chosen == WHOLE or _held_phrasing(chosen) == phrasing
        return chosen == LEARNED or (chosen >= 0 and chosen != phrasing)

    def _part(self, entry: Entry, chosen: int) -> Entry:
        if chosen in (LEARNED, WHOLE):
            return entry
        if self.is_held_out:
            return replace(entry, phrasings=(entry.phrasings[_held_phrasing(chosen)],))
        left = (p for at, p in enumerate(entry.phrasings) if at != chosen)
        return replace(entry, phrasings=tuple(left))


def _is_on(chosen: int, is_held_out: bool) -> bool:
    if is_held_out:
        return chosen == WHOLE or _held_phrasing(chosen) >= 0
    return chosen == LEARNED or chosen >= 0


def _held_phrasing(chosen: int) -> int:
    """Return the number of the phrasing that is held out; -1 if it is none."""
    return chosen if chosen >= 0 else max(-1, LEFT_OUT - 1 - chosen)


def split(entries: Sequence[Entry], spec: DataSpec, seed: int) -> tuple[Side, Side]:
    """Return (train, held out)."""
    chosen = array("l", (_replayed(entry, spec, seed) for entry in entries))
    train, held_out = (
        Side(
            entries=entries,
            chosen=chosen,
            is_held_out=side,
            numbers=array("L", (at for at, each in enumerate(chosen) if _is_on(each, side))),
        )
        for side in (False, True)
    )
    return train, held_out


def _replayed(entry: Entry, spec: DataSpec, seed: int) -> int:
    """Return the mark of an entry; an earlier one is learned with the share that is replayed.

    What is held out stays so, whatever the round.
    """
    mark = _choose(entry, spec, seed)
    if entry.place.file in spec.newest or mark == WHOLE:
        return mark
    # Drawn apart from what is held out, which is drawn by the same question.
    if _fraction(seed, entry.phrasings[0], "replay") < spec.replay:
        return mark
    return LEFT_OUT if mark == LEARNED else LEFT_OUT - 1 - mark


def _choose(entry: Entry, spec: DataSpec, seed: int) -> int:
    if spec.held_out:
        return WHOLE if entry.place.file in spec.held_out else LEARNED
    if spec.hold_out == "conversation":
        is_out = _fraction(seed, entry.phrasings[0]) < spec.held_out_share
        return WHOLE if is_out else LEARNED
    if len(entry.phrasings) == 1:
        return LEARNED
    count = range(len(entry.phrasings))
    return min(count, key=lambda at: _fraction(seed, entry.phrasings[at]))


def _fraction(seed: int, messages: Messages, purpose: str = "") -> float:
    """Return a number in [0, 1) that is fixed by the seed and the question."""
    hashed = hashlib.sha256(f"{purpose}{seed}\0{question_key(messages)}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64
