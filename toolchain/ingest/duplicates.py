"""Entries and texts that are nearly the same, and held-out questions that training nearly saw.

Entries with different answers are never joined, and neither are texts with different numbers:
`above 60 °C` and `above 80 °C` differ in one sign and in all that matters.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

from toolchain.ingest.clean.near import near_pairs
from toolchain.ingest.entries import Entry, Messages, Place
from toolchain.ingest.found import Finding, Found
from toolchain.ingest.reading import Read
from toolchain.ingest.split import Side, key_digest, plain_key
from toolchain.ingest.spool import entries as entry_spool
from toolchain.recipe import CleanSpec
from toolchain.tool_use import said

KIND = "near-duplicate"
CONTAMINATION = "contamination"
Where = tuple[int, int]
"""Numbers of an entry and of its phrasing."""
Pair = tuple[Where, Where]
_NUMBERS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")


def join_near_duplicates(read: Read, spec: CleanSpec) -> list[Pair]:
    """Find near-duplicates; where `spec` mends, drop the later one of two with the same answer.

    Return the pairs of near questions that stay.
    """
    mends = spec.mode == "mend"
    phrasings = _Phrasings(read.entries)
    pairs: list[Pair] = []
    told: set[Where] = set()
    for earlier, later in near_pairs(phrasings, phrasings.__getitem__, spec.near_duplicates):
        here, there = phrasings.where(later), phrasings.where(earlier)
        if here[0] == there[0] or (mends and there in told):
            continue  # phrasings of one entry are meant to be near
        first, second = read.entries[there[0]], read.entries[here[0]]
        if not _is_same(first.phrasings[there[1]], second.phrasings[here[1]]):
            continue
        pairs.append((there, here))
        if here not in told:
            told.add(here)
            _add(read.found, second.place, "question", "dropped" if mends else "found")

    _find_near_answers(read, spec)
    _find_near_texts(read, spec)
    if mends and told:
        _drop(read, told)
    return [] if mends else pairs


def _is_same(first: Messages, second: Messages) -> bool:
    """Say whether two near questions ask the same: they have one answer, and the same numbers."""
    # Near questions with different answers are no duplicates: `how do I turn it on`, `… off`.
    answers = {plain_key(said(each[-1])) for each in (first, second)}
    return len(answers) == 1 and _numbers(_asked(first)) == _numbers(_asked(second))


def find_contamination(pairs: Sequence[Pair], held_out: Side, found: Found) -> None:
    """Report held-out questions that are nearly a learned one of another entry with their answer.

    Where the recipe mends there are none: near questions are joined before the split.
    """
    told: set[Where] = set()
    for pair in pairs:
        asked = [where for where in pair if held_out.has(*where)]
        # The held-out phrasing of an entry is near its learned ones: that is what it is for.
        if len(asked) == 1 and asked[0] not in told:
            told.add(asked[0])
            place = held_out.entries[asked[0][0]].place
            _add(found, place, "learned question", "found", CONTAMINATION)


def _find_near_answers(read: Read, spec: CleanSpec) -> None:
    """Report entries whose answers are nearly, but not quite, the same."""
    firsts: dict[int, int] = {}
    for number, entry in enumerate(read.entries):
        firsts.setdefault(key_digest(_answer(entry)), number)
    numbers = array("L", sorted(firsts.values()))
    del firsts

    def answer(at: int) -> str:
        return said(read.entries[numbers[at]].phrasings[0][-1])

    told: set[int] = set()
    texts = (answer(at) for at in range(len(numbers)))
    for _, later in near_pairs(texts, answer, spec.near_duplicates):
        if later not in told:
            told.add(later)
            _add(read.found, read.entries[numbers[later]].place, "answer", "found")


def _find_near_texts(read: Read, spec: CleanSpec) -> None:
    """Report documents that are nearly the same."""
    told: set[int] = set()
    texts = (document.text for document in read.documents)
    pairs = near_pairs(texts, lambda at: read.documents[at].text, spec.near_duplicates)
    for earlier, later in pairs:
        first, second = read.documents[earlier], read.documents[later]
        if later not in told and _numbers(first.text) == _numbers(second.text):
            told.add(later)
            _add(read.found, second.place, "text", "found")


def _drop(read: Read, dropped: set[Where]) -> None:
    left = entry_spool()
    for number, entry in enumerate(read.entries):
        kept = tuple(p for at, p in enumerate(entry.phrasings) if (number, at) not in dropped)
        for _ in range(len(entry.phrasings) - len(kept)):
            read.dropped.add(entry.where, KIND)
        if kept:
            left.append(replace(entry, phrasings=kept))
    read.entries = left


def _add(found: Found, place: Place, rule: str, done: str, kind: str = KIND) -> None:
    found.add(Finding(place=place, part="entry", kind=kind, rule=rule, done=done))


def _asked(messages: Messages) -> str:
    """Return all that was said before the answer, without the system prompt."""
    return "\n".join(said(each) for each in messages[:-1] if each["role"] != "system")


def _answer(entry: Entry) -> str:
    return plain_key(said(entry.phrasings[0][-1]))


def _numbers(text: str) -> list[str]:
    return _NUMBERS.findall(text)


class _Phrasings(Sequence[str]):
    """The questions of entries, one after the other, with the entry and phrasing of each."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._numbers = array("L")
        self._phrasings = array("L")
        for number, entry in enumerate(entries):
            for at in range(len(entry.phrasings)):
                self._numbers.append(number)
                self._phrasings.append(at)

    def where(self, at: int) -> Where:
        """Return the numbers of an entry and of its phrasing."""
        return self._numbers[at], self._phrasings[at]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: int) -> str:  # type: ignore[override]
        number, phrasing = self.where(at)
        return _asked(self._entries[number].phrasings[phrasing])

    def __iter__(self) -> Iterator[str]:
        for entry in self._entries:
            for phrasing in entry.phrasings:
                yield _asked(phrasing)
