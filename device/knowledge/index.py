"""`knowledge.db`: passages, the questions that they answer, and the search among them.

An entry is a text that is compared with a question: a passage itself, a question that it answers,
or a question that no passage answers. An entry's likeness is the cosine of two sentence vectors; a
passage's is the soft maximum of its entries', so that several close ones count for more than one.
Its score adds a share for words in common. The host fitted that share, and from which certainty the
documents do know (toolchain/knowledge/fitting.py).
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from device.errors import DeviceError
from device.manifest.knowledge import (
    KNOWLEDGE_SCHEMA,
    certainty,
    pooled,
    product,
    query,
    signs,
    terms,
    title,
)

CANDIDATES = 128
"""Entries whose sign bits are closest to the question's: their exact likeness is computed."""
# On the shipped help desk (12,304 entries) the first passage was that of a comparison with all
# entries for each of 125 questions, and the first three were the same for 99 %.
MATCHES = 48
"""Entries with the rarest words in common, whose likeness is computed as well."""
COMMON = 500
"""Entries with a word from which on it is common, or a twentieth of all entries if that is more."""
# Common words make BM25 read 4,700 entries for a question (8 ms on a desktop) and say little.
COMMON_SHARE = 20
HALF_MATCH = 8.0
"""BM25 at which words in common count half."""
MOST_CHARACTERS = 4096
"""Characters of a question that are read. The embedder reads 256 tokens, and words are 64."""
_NAMED = "SELECT vector, scale FROM entries WHERE id IN (?) ORDER BY id"
_TOGETHER = 500
"""Entries that one statement asks for; SQLite allows 999 values by default up to 3.31."""
Embed = Callable[[str], Sequence[float]]
"""Text → its vector of length 1."""


@dataclass(frozen=True)
class Weights:
    """What the host fitted on questions of their own."""

    words: float = 0.0
    """Share of words in common in a score."""
    unanswered: float = 0.0
    """Share of the likeness to questions that no passage answers, which a certainty loses."""
    next: float = 0.0
    """Share of the second passage's score, which a certainty loses."""
    pooling: float = 0.0
    """Temperature at which the likeness of a passage's entries is pooled."""
    threshold: float = 0.0
    """Least certainty with which a passage counts as an answer."""


@dataclass(frozen=True)
class Hit:
    """A passage that may answer a question."""

    id: int
    text: str
    source: str
    heading: str
    page: "int | None"
    score: float

    @property
    def title(self) -> str:
        """Where it stands, for people."""
        return title(self.source, self.page, self.heading)


@dataclass(frozen=True)
class Compared:
    """Likeness of a question to the passages near it."""

    like: dict[int, float]
    """Passage → pooled likeness of its entries."""
    common: dict[int, float]
    """Passage → how much the words in common count, from 0 to 1."""
    unanswered: float
    """Pooled likeness of the questions that no passage answers; 0 if none is near."""


@dataclass(frozen=True)
class Found:
    """Passages for a question, the best first."""

    hits: tuple[Hit, ...]
    certainty: float
    """Score of the best passage, less the shares of the next one and of unanswered questions."""
    known: bool
    """Whether the best passage counts as an answer."""


class Index:
    """An open `knowledge.db`. Any thread may search, one at a time."""

    def __init__(self, path: Path, embed: Embed, embedder: str = "") -> None:
        """Open a file whose vectors are of the embedder with this sha256; empty skips the check.

        Raise DeviceError `bad_knowledge`, `wrong_embedder` or `no_fts5`.
        """
        self._embed = embed
        self._db = _open(path)
        with self._guarded():
            facts = dict(self._db.execute("SELECT name, value FROM facts"))
            if facts.get("schema") not in range(1, KNOWLEDGE_SCHEMA + 1):
                raise DeviceError(
                    "newer_schema",
                    f"{path.name} has schema {facts.get('schema')}, "
                    f"this runtime knows {KNOWLEDGE_SCHEMA}",
                )
            if embedder and facts["embedder"] != embedder:
                raise DeviceError(
                    "wrong_embedder",
                    f"the vectors of {path.name} are of another embedder",
                    hint="package the two files that one run made",
                )
            self._width = int(facts["width"])
            self.weights = Weights(
                words=float(facts["words"]),
                unanswered=float(facts["unanswered"]),
                next=float(facts.get("next", 0.0)),
                pooling=float(facts.get("pooling", 0.0)),
                threshold=float(facts["threshold"]),
            )
            self._passage_of = [row[0] for row in self._rows("SELECT passage FROM entries")]
            if not all(each is None or type(each) is int for each in self._passage_of):
                raise TypeError("an entry of no passage")
            self._signs = self._read_signs()
            self._many = max(COMMON, len(self._passage_of) // COMMON_SHARE)
            self._common: set[str] = set()
            self.passages = int(next(self._rows("SELECT count(*) FROM passages"))[0])
            """Number of passages."""

    def search(self, question: str, take: int = 3) -> Found:
        """Return the best passages for a question; raise DeviceError `bad_knowledge`."""
        compared = self.compare(question)
        weights = self.weights
        scores = {
            passage: like + weights.words * compared.common[passage]
            for passage, like in compared.like.items()
        }
        with self._guarded():
            hits = self._hits(scores, take)
        best = sorted(scores.values(), reverse=True)[:2]
        sure = certainty(best, compared.unanswered, weights.next, weights.unanswered)
        return Found(hits, sure, bool(hits) and sure >= weights.threshold)

    def compare(self, question: str, vector: "Sequence[float] | None" = None) -> "Compared":
        """Return how like a question the passages near to it are.

        `vector` is the question's own, where it is known already.
        """
        question = question.strip()[:MOST_CHARACTERS]
        with self._guarded():
            if vector is None:
                vector = self._embed(question)
            matches = dict(self._matches(question))
            entries = sorted({*self._nearest(vector), *matches})
            likeness = zip(entries, self._products(entries, vector), strict=True)

            alike: dict["int | None", list[float]] = {}
            common: dict[int, float] = {}
            for entry, value in likeness:
                passage = self._passage_of[entry - 1]
                alike.setdefault(passage, []).append(value)
                if passage is not None:
                    common[passage] = max(common.get(passage, 0.0), matches.get(entry, 0.0))

            temperature = self.weights.pooling
            unanswered = pooled([0.0, *alike.pop(None, [])], temperature)
            like = {
                passage: pooled(values, temperature)
                for passage, values in alike.items()
                if passage is not None
            }
        return Compared(like, common, unanswered)

    def passage(self, number: int) -> "Hit | None":
        """Return a passage by its number; None if there is none."""
        with self._guarded():
            hits = self._hits({number: 1.0}, 1)
        return hits[0] if hits else None

    def goldens(self) -> list[tuple[str, int]]:
        """Return questions with the number of the passage that must be found first."""
        with self._guarded():
            return [(row[0], row[1]) for row in self._rows("SELECT question, passage FROM goldens")]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _matches(self, question: str) -> Iterator[tuple[int, float]]:
        """Yield entries with words in common, and how much these count: from 0 to 1."""
        words = terms(question)
        asked = query([each for each in words if not self._is_common(each)] or words)
        if not asked:
            return
        # A row's number breaks ties, so that the same question finds the same entries everywhere.
        rows = self._rows(
            "SELECT rowid, bm25(words) AS rank FROM words WHERE words MATCH ? "
            "ORDER BY rank, rowid LIMIT ?",
            asked,
            MATCHES,
        )
        for entry, rank in rows:
            yield entry, -rank / (HALF_MATCH - rank)

    def _is_common(self, term: str) -> bool:
        """Return whether so many entries have a term that it says little."""
        if term not in self._common:
            counted = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
            count = next(self._rows(counted, query([term]), self._many))[0]
            if count < self._many:
                return False
            # There are few such words, so this set stays small.
            self._common.add(term)
        return True

    def _nearest(self, vector: Sequence[float]) -> list[int]:
        """Return the entries whose sign bits differ least from the vector's."""
        asked = signs(vector)
        apart = [(asked ^ each).bit_count() for each in self._signs]
        if len(apart) <= CANDIDATES:
            return [number + 1 for number in range(len(apart))]
        limit = sorted(apart)[CANDIDATES]
        return [number + 1 for number, bits in enumerate(apart) if bits <= limit]

    def _products(self, entries: Sequence[int], vector: Sequence[float]) -> Iterator[float]:
        for at in range(0, len(entries), _TOGETHER):
            some = entries[at : at + _TOGETHER]
            asked = _NAMED.replace("(?)", f"({','.join('?' * len(some))})")
            for packed, scale in self._rows(asked, *some):
                if len(packed) != self._width:
                    raise ValueError("a vector of another width")
                yield product(packed, scale, vector)

    def _hits(self, scores: dict[int, float], take: int) -> tuple[Hit, ...]:
        best = sorted(scores, key=lambda each: (-scores[each], each))[:take]
        hits = []
        for number in best:
            row = self._db.execute(
                "SELECT id, text, source, heading, page FROM passages WHERE id = ?", (number,)
            )
            if found := row.fetchone():
                number, text, source, heading, page = found
                if not all(isinstance(each, str) for each in (text, source, heading)):
                    raise TypeError("a passage that is no text")
                hits.append(Hit(number, text, source, heading, page, scores[number]))
        return tuple(hits)

    def _read_signs(self) -> list[int]:
        bits = next(self._rows("SELECT bits FROM signs"))[0]
        size = (self._width + 7) // 8
        if len(bits) != size * len(self._passage_of):
            raise DeviceError("bad_knowledge", "the knowledge has sign bits of other entries")
        return [int.from_bytes(bits[at : at + size], "big") for at in range(0, len(bits), size)]

    def _rows(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        yield from self._db.execute(statement, values)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turn what SQLite and wrong types raise into a DeviceError."""
        try:
            yield
        except (
            sqlite3.Error,
            TypeError,
            ValueError,
            KeyError,
            LookupError,
            OverflowError,
        ) as error:
            if "fts5" in str(error):
                raise _no_fts5() from error
            raise DeviceError(
                "bad_knowledge", f"the knowledge cannot be read: {error}", hint="push it again"
            ) from error
        except StopIteration as error:
            raise DeviceError("bad_knowledge", "the knowledge has no sign bits") from error


def _open(path: Path) -> sqlite3.Connection:
    """Open a file that nobody writes; nothing in it is executed."""
    try:
        db = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1",
            uri=True,
            check_same_thread=False,
        )
        db.execute("PRAGMA trusted_schema = OFF")
        return db
    except sqlite3.Error as error:
        raise DeviceError("bad_knowledge", f"{path.name} cannot be opened: {error}") from error


def _no_fts5() -> DeviceError:
    return DeviceError(
        "no_fts5",
        "this board's Python has a SQLite without FTS5, which finds words in the knowledge",
        hint="use the system's own Python (Debian, Raspberry Pi OS and Ubuntu have it)",
    )
