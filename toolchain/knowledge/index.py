"""Writes `knowledge.db`: passages, their questions, and the vectors of both.

Equal inputs give equal bytes: rows are written in order, in one transaction, with the page size and
the options stated here.
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest.knowledge import (
    KNOWLEDGE_SCHEMA,
    POOLING,
    SCALE,
    TABLES,
    WORDS,
    Weights,
    spaced,
)
from toolchain.errors import ToolError
from toolchain.files import whole_file
from toolchain.knowledge.parts import parts
from toolchain.knowledge.passages import Passage

if TYPE_CHECKING:
    import numpy as np

_PAGE_BYTES = 4096
PARTED = 10_000
"""Most passages without questions that are compared by their parts as well, which make the index
four times as large."""
FITTED = tuple(each.name for each in fields(Weights))
"""Facts that are fitted once the index can be searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A text that is compared with a question."""

    text: str
    passage: int | None
    """Number of the passage that it stands for, from 1; None for a question without an answer."""
    part: bool = False
    """Whether it is a part of the passage's own text."""


def entries_of(
    passages: Sequence[Passage],
    questions: Sequence[Sequence[str]],
    unanswered: Sequence[str],
    *,
    fitted: bool,
) -> list[Entry]:
    """Return what is compared with a question: passages, their questions, then the others.

    A passage that nobody wrote questions for is compared by its parts as well, up to `PARTED` such
    passages. In a `fitted` search none is if another passage has questions.
    """
    # A fit treats passages without questions by themselves (bare.py), and is worse with parts. Not
    # fitted, ten answers with questions beside 109 sections left 47 % of the sections' questions
    # with their section first where no section had parts, and 68 % where they had.
    bare = sum(not asked for asked in questions)
    parted = bare <= PARTED and not (fitted and any(questions))
    entries = []
    for number, (passage, asked) in enumerate(zip(passages, questions, strict=True), 1):
        heading = passage.heading.rpartition(" › ")[2]
        text = f"{heading}. {passage.text}" if heading else passage.text
        entries.append(Entry(text=text, passage=number))
        if parted and not asked:
            entries += [Entry(text=each, passage=number, part=True) for each in parts(passage.text)]
        entries += [Entry(text=each, passage=number) for each in asked]
    return entries + [Entry(text=each, passage=None) for each in unanswered]


def write_index(
    file: Path,
    passages: Sequence[Passage],
    entries: Sequence[Entry],
    vectors: "np.ndarray",
    embedder_sha256: str,
    pooling: float = POOLING,
) -> None:
    """Write an index whose fitted facts are 0; raise ToolError where SQLite lacks FTS5.

    `vectors` is float32 [entries, width], rows of length 1. `pooling` is the temperature of a
    passage's likeness; 0 takes that of its closest entry.
    """
    with whole_file(file) as part, closing(_empty(part)) as db, db:
        facts = {
            "schema": KNOWLEDGE_SCHEMA,
            "embedder": embedder_sha256,
            "width": int(vectors.shape[1]),
            "pooling": pooling,
            "enough": _enough(entries),
            **dict.fromkeys(FITTED, 0.0),
        }
        db.executemany("INSERT INTO facts VALUES (?, ?)", sorted(facts.items()))
        db.executemany(
            "INSERT INTO passages VALUES (?, ?, ?, ?, ?)",
            (
                (number, each.text, each.source, each.heading, each.page)
                for number, each in enumerate(passages, 1)
            ),
        )
        rows = zip(entries, packed(vectors), strict=True)
        db.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            ((number, entry.passage, *row) for number, (entry, row) in enumerate(rows, 1)),
        )
        db.execute("INSERT INTO signs VALUES (1, ?)", (sign_bits(vectors),))
        db.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((number, spaced(entry.text)) for number, entry in enumerate(entries, 1)),
        )
        db.execute("INSERT INTO words (words) VALUES ('optimize')")


def _enough(entries: Sequence[Entry]) -> int:
    """Return how many questions nine of ten passages have, of those that have any; 0 if none has.

    A passage with fewer is compared like one without, by the share that it lacks.
    """
    passages = Counter(each.passage for each in entries if each.passage and not each.part)
    counts = sorted(count - 1 for count in passages.values() if count > 1)
    return counts[len(counts) // 10] if counts else 0


def packed(vectors: "np.ndarray") -> list[tuple[bytes, float]]:
    """Return each row of float32 [n, width] as signed bytes, with the factor that gives it back."""
    import numpy as np

    rows = vectors.astype(np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    largest[largest == 0.0] = 1.0
    steps = np.rint(rows * SCALE / largest[:, None]).astype(np.int8)
    factors = (largest / SCALE).tolist()
    return [(step.tobytes(), factor) for step, factor in zip(steps, factors, strict=True)]


def sign_bits(vectors: "np.ndarray") -> bytes:
    """Return the sign bits of float32 [n, width], row by row, as the board's `signs` makes them."""
    import numpy as np

    # The number of a row is right-aligned: the spare bits of its first byte are 0.
    spare = -vectors.shape[1] % 8
    return np.packbits(np.pad(vectors > 0, ((0, 0), (spare, 0))), axis=1).tobytes()


def set_fitted(file: Path, fitted: Mapping[str, float], goldens: Sequence[tuple[str, int]]) -> None:
    """Write the fitted facts, and questions with the passage that is found first.

    Without those of bare passages, these are judged like the others.
    """
    values = {**dict.fromkeys(FITTED, 0.0), "bare_threshold": fitted["threshold"], **fitted}
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA journal_mode = OFF")
        for name in FITTED:
            db.execute("UPDATE facts SET value = ? WHERE name = ?", (values[name], name))
        db.execute("DELETE FROM goldens")
        db.executemany(
            "INSERT INTO goldens VALUES (?, ?, ?)",
            ((number, *golden) for number, golden in enumerate(goldens, 1)),
        )


def _empty(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    db.execute("PRAGMA journal_mode = OFF")
    db.executescript(TABLES)
    try:
        db.execute(WORDS)
    except sqlite3.OperationalError as error:
        db.close()
        raise ToolError(
            "this Python's SQLite has no FTS5, which finds words in documents",
            hint="use the system's own Python, or one from python.org",
        ) from error
    return db
