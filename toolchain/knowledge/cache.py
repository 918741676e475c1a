"""Vectors of texts from one run to the next: a changed document costs its own texts alone.

It is a cache: a file that cannot be read is begun anew.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import ToolError

if TYPE_CHECKING:
    import numpy as np

_TABLE = "CREATE TABLE IF NOT EXISTS vectors (name TEXT PRIMARY KEY, vector BLOB)"
_NAMED = "SELECT name, vector FROM vectors WHERE name IN (?)"
_TOGETHER = 500
"""Names that one statement asks for; SQLite allows 999 values by default up to 3.31."""
_PAGE_BYTES = 16384
# A vector of 384 numbers is a row of 1.6 KB: without row numbers and in pages of 4 KB each one took
# an overflow page, 4.7 KB in all.


class VectorCache:
    """Vectors of one embedder, by the texts."""

    def __init__(self, file: Path, maker: str) -> None:
        """Open or begin a cache; `maker` names embedder and runtime that make the vectors.

        Raise ToolError if another program holds it.
        """
        self._maker = f"{hashlib.sha256(maker.encode()).hexdigest()[:16]} "
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = _opened(file)
        except sqlite3.OperationalError as error:
            raise ToolError(
                f"{file}: {error}", hint="another run may use it: wait for it"
            ) from error
        except sqlite3.DatabaseError:
            for each in (file, file.with_name(f"{file.name}-journal")):
                each.unlink(missing_ok=True)
            self._db = _opened(file)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Return the texts whose vectors are not here."""
        found = self._found(texts)
        return [text for text in texts if self._name(text) not in found]

    def add(self, texts: Sequence[str], vectors: "np.ndarray") -> None:
        """Keep vectors; they are on the disk before the next ones are made."""
        rows = [
            (self._name(text), vector.astype("<f4").tobytes())
            for text, vector in zip(texts, vectors, strict=True)
        ]
        self._db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
        self._db.commit()

    def drop_others(self) -> None:
        """Drop the vectors that another embedder or runtime made."""
        # Without it the file grew by all vectors with each new embedder. Texts that are not used
        # now may be used again, and cost hours if they are many.
        dropped = self._db.execute(
            "DELETE FROM vectors WHERE substr(name, 1, ?) != ?", (len(self._maker), self._maker)
        ).rowcount
        self._db.commit()
        if dropped:
            self._db.execute("VACUUM")

    def vectors(self, texts: Sequence[str]) -> "np.ndarray":
        """Return float32 [len(texts), width] of texts that are here."""
        import numpy as np

        found = self._found(texts)
        rows = [np.frombuffer(found[self._name(text)], "<f4") for text in texts]
        return np.stack(rows) if rows else np.empty((0, 0), "<f4")

    def _found(self, texts: Sequence[str]) -> dict[str, bytes]:
        """Return the vectors that are here, by name."""
        names = [self._name(text) for text in texts]
        found: dict[str, bytes] = {}
        for at in range(0, len(names), _TOGETHER):
            some = names[at : at + _TOGETHER]
            asked = _NAMED.replace("(?)", f"({','.join('?' * len(some))})")
            found.update(self._db.execute(asked, some))
        return found

    def _name(self, text: str) -> str:
        return self._maker + hashlib.sha256(text.encode()).hexdigest()


def _opened(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file)
    db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    db.execute("PRAGMA synchronous = OFF")
    db.execute(_TABLE)
    if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
        db.close()
        raise sqlite3.DatabaseError("the file is damaged")
    return db
