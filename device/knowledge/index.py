"""`knowledge.db`: passages, the questions that they answer, and the search among them.

An entry is a text that is compared with a question: a passage itself, a question that it answers,
or a question that no passage answers. An entry's likeness is the cosine of two sentence vectors; a
passage's is the soft maximum of its entries', so that several close ones count for more than one.
Its score adds a share for words in common. The host fitted that share, and from which certainty the
documents do know (toolchain/knowledge/fitting.py).
"""

import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from device.errors import DeviceError
from device.manifest.knowledge import (
    KEEPS_SQUARES,
    KNOWLEDGE_SCHEMA,
    Asked,
    Weights,
    certainty,
    is_known,
    pooled,
    product,
    query,
    rank,
    signs,
    square,
    terms,
    thinness,
    title,
)

NO_PASSAGE = 0
"""In place of a passage's number: a question that no passage answers."""
CANDIDATES = 128
"""Entries whose sign bits are closest to the question's: their exact likeness is computed."""
# On the shipped help desk (12,304 entries) the first passage was that of a comparison with all
# entries for each of 125 questions, and the first three were the same for 99 %.
TEXTS = 32
"""Closest entries of passages with few questions, whose likeness is computed as well."""
# A passage's own text is longer than a question, and seldom among the closest entries of all.
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
    thin: dict[int, float]
    """Passage of `like` without enough questions → how far it is from enough, from 0 to 1."""
    texts: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Passage → likeness of its own text, and how much the words in common with that count."""


@dataclass(frozen=True)
class Found:
    """Passages for a question, the best first."""

    hits: tuple[Hit, ...]
    certainty: float
    """Score of the best passage, less shares of what speaks against it."""
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
            self.width = int(facts["width"])
            """Numbers in a vector."""
            self.weights = Weights(
                words=float(facts["words"]),
                unanswered=float(facts["unanswered"]),
                next=float(facts.get("next", 0.0)),
                rivalry=float(facts.get("rivalry", 0.0)),
                threshold=float(facts["threshold"]),
                bare=float(facts.get("bare", 0.0)),
                bare_next=float(facts.get("bare_next", 0.0)),
                bare_threshold=float(facts.get("bare_threshold", facts["threshold"])),
            )
            self.pooling = float(facts.get("pooling", 0.0))
            """Temperature at which the likeness of a passage's entries is pooled."""
            passages = self._rows("SELECT passage FROM entries ORDER BY id")
            # Four bytes an entry; a list of whole numbers takes 36.
            self._passage_of = array(
                "i", (NO_PASSAGE if row[0] is None else row[0] for row in passages)
            )
            self._entries = range(1, len(self._passage_of) + 1)
            self._thin = _thin(self._passage_of, float(facts.get("enough", 0.0)))
            self._few = array(
                "i",
                (entry for entry in self._entries if self._passage_of[entry - 1] in self._thin),
            )
            self._signs = self._read_signs()
            self._squares = array("Q", bytes(8 * len(self._passage_of) * KEEPS_SQUARES))
            """`square` of each entry that was compared before; 0 for the others."""
            self._many = max(COMMON, len(self._passage_of) // COMMON_SHARE)
            self._common: set[str] = set()
            self.passages = int(next(self._rows("SELECT count(*) FROM passages"))[0])
            """Number of passages."""

    def search(self, question: str, take: int = 3) -> Found:
        """Return the best passages for a question; raise DeviceError `bad_knowledge`."""
        compared = self.compare(question)
        ranked = rank(compared.like, compared.common, compared.thin, self.weights)
        sure = certainty(ranked, compared.unanswered, self.weights)
        with self._guarded():
            hits = self._hits({each.passage: each.score for each in ranked[:take]})
        # Without a word the vector is that of unknown tokens, and close to any other such text:
        # MiniLM finds four emojis in a Chinese sentence of which it knows little more.
        known = bool(hits and terms(question)) and is_known(ranked, sure, self.weights)
        return Found(hits, sure, known)

    def compare(
        self, question: str, vector: "Sequence[float] | None" = None, *, texts: bool = False
    ) -> "Compared":
        """Return how like a question the passages near to it are.

        `vector` is the question's own, where it is known already. With `texts` the closest texts of
        all passages are compared as well.
        """
        question = question.strip()[:MOST_CHARACTERS]
        with self._guarded():
            if vector is None:
                vector = self._embed(question)
            matches = dict(self._matches(question))
            apart = self._apart(vector)
            near = {*_closest(apart, self._entries, CANDIDATES), *matches}
            near.update(_closest(apart, self._few, TEXTS))
            values = self._products(near, vector)

            alike: dict[int, list[float]] = {}
            common: dict[int, float] = {}
            for entry, value in values.items():
                passage = self._passage_of[entry - 1]
                alike.setdefault(passage, []).append(value)
                common[passage] = max(common.get(passage, 0.0), matches.get(entry, 0.0))

            temperature = self.pooling
            unanswered = pooled([0.0, *alike.pop(NO_PASSAGE, [])], temperature)
            like = {passage: pooled(each, temperature) for passage, each in alike.items()}
            own = self._texts_of(apart, values, vector, matches) if texts else {}
            thin = {passage: self._thin[passage] for passage in like if passage in self._thin}
        return Compared(like, common, unanswered, thin, own)

    def passage(self, number: int) -> "Hit | None":
        """Return a passage by its number; None if there is none."""
        with self._guarded():
            hits = self._hits({number: 1.0})
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
        for entry, score in rows:
            yield entry, -score / (HALF_MATCH - score)

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

    @cached_property
    def _own_entries(self) -> "dict[int, int]":
        """Each passage with the entry that is its own text; a board does not ask for them."""
        return _own_entries(self._passage_of)

    def _texts_of(
        self,
        apart: Sequence[int],
        values: "dict[int, float]",
        vector: Sequence[float],
        matches: "dict[int, float]",
    ) -> "dict[int, tuple[float, float]]":
        """Return the likeness of the closest passages' own texts; `values` are known already."""
        texts = list(self._own_entries.values())
        more = {*_closest(apart, texts, 2 * TEXTS)} - values.keys()
        likeness = {**values, **self._products(more, vector)}
        return {
            passage: (likeness[entry], matches.get(entry, 0.0))
            for passage, entry in self._own_entries.items()
            if entry in likeness
        }

    def _apart(self, vector: Sequence[float]) -> list[int]:
        """Return how many sign bits of each entry differ from the vector's."""
        asked = signs(vector)
        return [(asked ^ each).bit_count() for each in self._signs]

    def _products(self, entries: Collection[int], vector: Sequence[float]) -> "dict[int, float]":
        """Return the likeness of entries, by their numbers."""
        numbers = sorted(entries)
        asked = Asked.of(vector)
        values = []
        for at in range(0, len(numbers), _TOGETHER):
            some = numbers[at : at + _TOGETHER]
            named = _NAMED.replace("(?)", f"({','.join('?' * len(some))})")
            for number, (packed, scale) in zip(some, self._rows(named, *some), strict=True):
                if len(packed) != self.width:
                    raise ValueError("a vector of another width")
                values.append(product(packed, scale, asked, self._square(number, packed)))
        return dict(zip(numbers, values, strict=True))

    def _square(self, entry: int, packed: bytes) -> int:
        """Return the `square` of an entry's vector, computed once; 0 where nobody needs it."""
        if not KEEPS_SQUARES:
            return 0
        known = self._squares[entry - 1]
        if not known:
            known = self._squares[entry - 1] = square(packed)
        return known

    def _hits(self, scores: dict[int, float]) -> tuple[Hit, ...]:
        hits = []
        for number in scores:
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
        size = (self.width + 7) // 8
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


def _own_entries(passage_of: Sequence[int]) -> "dict[int, int]":
    """Return each passage with the entry that is its own text: the first one."""
    first: dict[int, int] = {}
    for entry, passage in enumerate(passage_of, 1):
        first.setdefault(passage, entry)
    first.pop(NO_PASSAGE, None)
    return first


def _thin(passage_of: Sequence[int], enough: float) -> "dict[int, float]":
    """Return each passage without enough questions, and how far it is from them."""
    shares = {
        passage: thinness(entries - 1, enough)
        for passage, entries in Counter(passage_of).items()
        if passage != NO_PASSAGE
    }
    return {passage: share for passage, share in shares.items() if share > 0.0}


def _closest(apart: Sequence[int], entries: Sequence[int], most: int) -> Sequence[int]:
    """Return the entries whose sign bits differ least; more than `most` where they are equal."""
    if len(entries) <= most:
        return entries
    distances = apart if len(entries) == len(apart) else [apart[entry - 1] for entry in entries]
    # Distances are small numbers: counting them is faster than sorting 12,000.
    counts = Counter(distances)
    limit, left = 0, most
    for limit in sorted(counts):
        left -= counts[limit]
        if left < 0:
            break
    return [entry for entry, bits in zip(entries, distances, strict=True) if bits <= limit]


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
