"""Near-duplicates: candidates by their signatures in one place, each decided wherever it may be.

Entries with different answers are never joined, and neither are texts with different numbers:
`above 60 °C` and `above 80 °C` differ in one sign and in all that matters.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from toolchain.files import whole_file
from toolchain.ingest.clean.near import BANDS, candidates, pieces_of, share_of
from toolchain.ingest.clean.sketch import SKETCH_BYTES, Sieve
from toolchain.ingest.entries import Messages
from toolchain.ingest.shards.columns import band_of, numbers, sketches_path
from toolchain.ingest.shards.room import Room, store_of
from toolchain.ingest.shards.seals import is_sealed, seal
from toolchain.ingest.shards.views import Store
from toolchain.ingest.split import plain_key, question_of
from toolchain.tool_use import said

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Texts = Literal["questions", "answers", "texts"]
"""What is compared with its like: phrasings, answers of entries, documents."""
CHUNK = 20_000
"""Candidates that are decided at once."""
_FILES: Mapping[Texts, str] = {
    "questions": "bands",
    "answers": "answer-bands",
    "texts": "text-bands",
}
_NUMBERS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")


def propose(
    room: Room, store: Store, texts: Texts, chosen: "npt.NDArray[np.bool_]", limit: float
) -> int:
    """Write the candidates among the chosen texts; return how many chunks of them there are."""
    counts = {
        "questions": store.phrasings,
        "answers": store.entries,
        "texts": store.documents,
    }[texts]
    paths = [shard.folder / _FILES[texts] for shard in store.shards]
    sizes = [end - begin for begin, end in pairwise(counts)]

    def band(number: int) -> "npt.NDArray[np.uint32]":
        """Return one band of the signatures of all texts, in their order."""
        import numpy as np

        values = np.empty(counts[-1], np.uint32)
        at = 0
        for path, size in zip(paths, sizes, strict=True):
            for block in band_of(path, size, number):
                values[at : at + len(block)] = block
                at += len(block)
        return values

    def sketches(wanted: "npt.NDArray[np.uint32]") -> "npt.NDArray[np.uint8]":
        """Return the sketches of texts, whose numbers ascend."""
        import numpy as np

        rows = np.empty((len(wanted), SKETCH_BYTES), np.uint8)
        bounds = np.searchsorted(wanted, counts)
        for path, begin, (first, last) in zip(paths, counts, pairwise(bounds), strict=False):
            if last > first:
                own = numbers(sketches_path(path), "B").reshape(-1, SKETCH_BYTES)
                rows[first:last] = own[wanted[first:last] - np.uint32(begin)]
        return rows

    total = 0
    with whole_file(_pairs(room, texts), lasting=not room.shows) as part, part.open("wb") as stream:
        if int(chosen.sum()) > 1:
            bands = [lambda number=number: band(number) for number in range(BANDS)]
            for block in candidates(bands, chosen, sketches, Sieve(limit)):
                block.tofile(stream)
                total += len(block)
    return -(-total // CHUNK)


def is_decided(room: Room, texts: Texts, number: int) -> bool:
    """Say whether a chunk of candidates was decided before, and is kept as it was written."""
    return is_sealed(_decided(room, texts, number))


def near(room: Room, texts: Texts, chunks: int) -> Iterator[tuple[int, int]]:
    """Yield the near-duplicates (earlier, later) among the candidates, in their order."""
    for number in range(chunks):
        rows = _chunk(room, texts, number)
        is_near = numbers(_decided(room, texts, number), "B").astype(bool)
        yield from map(tuple, rows[is_near].tolist())


def decide(room: Room, texts: Texts, number: int, limit: float) -> None:
    """Write for each candidate of a chunk whether the two are near-duplicates."""
    import numpy as np

    compare = _Compare(store_of(room), limit)
    rule: Callable[[int, int], bool] = getattr(compare, texts)
    rows = _chunk(room, texts, number)
    is_near = np.fromiter((rule(*row) for row in rows.tolist()), np.uint8, len(rows))
    with whole_file(_decided(room, texts, number), lasting=not room.shows) as part:
        is_near.tofile(part)
    if not room.shows:
        seal(_decided(room, texts, number), lasting=True)


class _Compare:
    """Decides whether two texts are near-duplicates."""

    def __init__(self, store: Store, limit: float) -> None:
        self._store = store
        self._limit = limit
        self._pieces = lru_cache(1024)(pieces_of)

    def questions(self, earlier: int, later: int) -> bool:
        """Near questions ask the same if they have one answer, and the same numbers."""
        (one, at), (other, there) = self._store.phrasing(earlier), self._store.phrasing(later)
        if one == other:
            return False  # phrasings of one entry are meant to be near
        first = self._store.entry(one).phrasings[at]
        second = self._store.entry(other).phrasings[there]
        return self._is_near(question_of(first), question_of(second)) and _is_same(first, second)

    def answers(self, earlier: int, later: int) -> bool:
        """Answers that are nearly, but not quite, the same, and have the same numbers."""
        first, second = (
            said(self._store.entry(each).phrasings[0][-1]) for each in (earlier, later)
        )
        return self._is_near(first, second) and _numbers(first) == _numbers(second)

    def texts(self, earlier: int, later: int) -> bool:
        """Documents that are nearly the same."""
        first, second = (self._store.document(each).text for each in (earlier, later))
        return self._is_near(first, second) and _numbers(first) == _numbers(second)

    def _is_near(self, first: str, second: str) -> bool:
        return share_of(self._pieces(first), self._pieces(second)) >= self._limit


def _is_same(first: Messages, second: Messages) -> bool:
    # Near questions with different answers are no duplicates: `how do I turn it on`, `… off`.
    answers = {plain_key(said(each[-1])) for each in (first, second)}
    return len(answers) == 1 and _numbers(question_of(first)) == _numbers(question_of(second))


def _numbers(text: str) -> list[str]:
    return _NUMBERS.findall(text)


def _pairs(room: Room, texts: Texts) -> Path:
    return room.folder / f"{texts}.pairs"


def _decided(room: Room, texts: Texts, number: int) -> Path:
    return room.folder / f"{texts}-{number:05d}.near"


def _chunk(room: Room, texts: Texts, number: int) -> "npt.NDArray[np.uint64]":
    rows = numbers(_pairs(room, texts), "I", number * CHUNK * 2, CHUNK * 2)
    return rows.reshape(-1, 2)
