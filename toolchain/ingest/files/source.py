"""A file as it is opened: packed or not, as bytes or as lines of text."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Document, Place
from toolchain.texts import Unreadable, decoded

MAX_LINE_BYTES = 16 << 20
"""Limit of a line, a cell and an element of a list."""
Raw: TypeAlias = tuple[Place, Any | Document | ArtifactError]
"""A value with its place: a row of a table, a document, or what is wrong there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of data."""

    name: str
    """As the recipe spells it."""
    path: Path
    is_packed: bool

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file; raise ArtifactError for what cannot be read or unpacked."""
        try:
            with gzip.open(self.path) if self.is_packed else self.path.open("rb") as stream:
                yield cast("IO[bytes]", stream)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ArtifactError(
                f"{self.name}: cut off or damaged: {str(error).lower()}",
                hint=f"`gzip -t {self.name}` checks it",
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise ArtifactError(f"{self.name}: cannot be read: {reason}") from error

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of each line; only a line feed ends one."""
        with self.opened() as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    limit = f"{MAX_LINE_BYTES >> 20} MiB"
                    raise ArtifactError(f"{self.name}:{number}: a line of more than {limit}")
                yield number, self._text(number, line.removesuffix(b"\n")).removesuffix("\r")

    def place(self, line: int, unit: str = "") -> Place:
        """Return a place in this file."""
        return Place(file=self.name, line=line, unit=unit)

    def _text(self, number: int, line: bytes) -> str:
        try:
            # Marks of other encodings stand at the start of a file only.
            if number > 1 and b"\0" not in line:
                return line.decode()
            return decoded(line)
        except UnicodeDecodeError as error:
            problem = f"not valid UTF-8 at byte {error.start + 1} of the line"
            raise ArtifactError(f"{self.name}:{number}: {problem}", hint=_NOT_UTF8) from error
        except Unreadable as error:
            hint = error.hint or _NOT_UTF8
            raise ArtifactError(f"{self.name}:{number}: {error.problem}", hint=hint) from error


_NOT_UTF8 = "save it as UTF-8; of a Chinese Windows: `iconv -f GB18030 -t UTF-8 OLD > NEW`"
