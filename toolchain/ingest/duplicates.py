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

KIND = "near-duplicate"
CONTAMINATION = "contamination"
_NUMBERS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")


def join_near_duplicates(read: Read, spec: CleanSpec) -> None:
    """Find near-duplicates; where `spec` mends, drop the later one of two with the same answer."""
    mends = spec.mode == "mend"
    phrasings = _Phrasings(read.entries)
    dropped: set[tuple[int, int]] = set()
    for earlier, later in near_pairs(phrasings, phrasings.__getitem__, spec.near_duplicates):
        here, there = phrasings.where(later), phrasings.where(earlier)
        if here[0] == there[0] or there in dropped or here in dropped:
            continue
        first, second = read.entries[there[0]], read.entries[here[0]]
        rule = _judged(first.phrasings[there[1]], second.phrasings[here[1]])
        if rule == _SAME and mends:
            dropped.add(here)
        if rule:
            done = "dropped" if rule == _SAME and mends else "found"
            _add(read.found, second.place, rule, done)

    _find_near_answers(read, spec)
    _find_near_texts(read, spec)
    if dropped:
        _drop(read, dropped)


_SAME, _OTHER = "question, same answer", "question, other answer"


def _judged(first: Messages, second: Messages) -> str:
    """Return the rule for two near questions; empty where their numbers make them different."""
    if _numbers(_asked(first)) != _numbers(_asked(second)):
        return ""
    is_same = plain_key(first[-1]["content"]) == plain_key(second[-1]["content"])
    return _SAME if is_same else _OTHER


def find_contamination(train: Side, held_out: Side, found: Found, limit: float) -> None:
    """Report held-out questions that are nearly a learned question of another entry.

    They are not mended: near questions with the same answer are joined before the split.
    """
    learned, asked = _Phrasings(train), _Phrasings(held_out)
    both = _Joined(learned, asked)
    told: set[int] = set()
    for earlier, later in near_pairs(both, both.__getitem__, limit):
        if earlier >= len(learned) or later < len(learned) or later in told:
            continue
        seen = train[learned.where(earlier)[0]]
        entry = held_out[asked.where(later - len(learned))[0]]
        if seen.place == entry.place or _numbers(both[earlier]) != _numbers(both[later]):
            continue
        told.add(later)
        is_same = _answer(seen) == _answer(entry)
        rule = "learned question, same answer" if is_same else "learned question, other answer"
        _add(found, entry.place, rule, "found", CONTAMINATION)


def _find_near_answers(read: Read, spec: CleanSpec) -> None:
    """Report entries whose answers are nearly, but not quite, the same."""
    firsts: dict[int, int] = {}
    for number, entry in enumerate(read.entries):
        firsts.setdefault(key_digest(_answer(entry)), number)
    numbers = array("L", sorted(firsts.values()))
    del firsts

    def answer(at: int) -> str:
        return read.entries[numbers[at]].phrasings[0][-1]["content"]

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


def _drop(read: Read, dropped: set[tuple[int, int]]) -> None:
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
    return "\n".join(each["content"] for each in messages[:-1] if each["role"] != "system")


def _answer(entry: Entry) -> str:
    return plain_key(entry.phrasings[0][-1]["content"])


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

    def where(self, at: int) -> tuple[int, int]:
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


class _Joined:
    """Two rows of questions as one."""

    def __init__(self, first: _Phrasings, second: _Phrasings) -> None:
        self._first = first
        self._second = second

    def __getitem__(self, at: int) -> str:
        border = len(self._first)
        return self._first[at] if at < border else self._second[at - border]

    def __iter__(self) -> Iterator[str]:
        yield from self._first
        yield from self._second
