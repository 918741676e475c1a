"""Writes `knowledge.db`: passages, their questions, and the vectors of both.

Equal inputs give equal bytes: rows are written in order, in one transaction, with the page size and
the options stated here.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest.knowledge import KNOWLEDGE_SCHEMA, TABLES, WORDS, pack, signs, spaced
from toolchain.errors import ToolError
from toolchain.files import whole_file
from toolchain.knowledge.passages import Passage

if TYPE_CHECKING:
    import numpy as np

_PAGE_BYTES = 4096
FITTED = ("words", "unanswered", "threshold")
"""Facts that are fitted once the index can be searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A text that is compared with a question."""

    text: str
    passage: int | None
    """Number of the passage that it stands for, from 1; None for a question without an answer."""


def entries_of(
    passages: Sequence[Passage], questions: Sequence[Sequence[str]], unanswered: Sequence[str]
) -> list[Entry]:
    """Return what is compared with a question: passages, their questions, then the others."""
    entries = []
    for number, (passage, asked) in enumerate(zip(passages, questions, strict=True), 1):
        heading = passage.heading.rpartition(" › ")[2]
        text = f"{heading}. {passage.text}" if heading else passage.text
        entries.append(Entry(text=text, passage=number))
        entries += [Entry(text=each, passage=number) for each in asked]
    return entries + [Entry(text=each, passage=None) for each in unanswered]


def write_index(
    file: Path,
    passages: Sequence[Passage],
    entries: Sequence[Entry],
    vectors: "np.ndarray",
    embedder_sha256: str,
) -> None:
    """Write an index whose fitted facts are 0; raise ToolError where SQLite lacks FTS5.

    `vectors` is float32 [entries, width], rows of length 1.
    """
    with whole_file(file) as part, closing(_empty(part)) as db, db:
        facts = {
            "schema": KNOWLEDGE_SCHEMA,
            "embedder": embedder_sha256,
            "width": int(vectors.shape[1]),
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
        rows = vectors.tolist()
        db.executemany(
            "INSERT INTO entries VALUES (?, ?, ?, ?)",
            (
                (number, entry.passage, *pack(row))
                for number, (entry, row) in enumerate(zip(entries, rows, strict=True), 1)
            ),
        )
        size = (vectors.shape[1] + 7) // 8
        bits = b"".join(signs(row).to_bytes(size, "big") for row in rows)
        db.execute("INSERT INTO signs VALUES (1, ?)", (bits,))
        db.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((number, spaced(entry.text)) for number, entry in enumerate(entries, 1)),
        )
        db.execute("INSERT INTO words (words) VALUES ('optimize')")


def set_fitted(file: Path, fitted: dict[str, float], goldens: Sequence[tuple[str, int]]) -> None:
    """Write the fitted facts, and questions with the passage that is found first."""
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA journal_mode = OFF")
        for name in FITTED:
            db.execute("UPDATE facts SET value = ? WHERE name = ?", (fitted[name], name))
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
