"""A file as it is opened: packed or not, as bytes or as lines of text."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Document, Place
from toolchain.texts import NOT_UTF8, Unreadable, decoded

_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WIDE_CHUNK = 1 << 16
MAX_LINE_BYTES = 16 << 20
"""Limit of a line, a cell and an element of a list."""
Raw: TypeAlias = tuple[Place, Any | Document | ArtifactError]
"""A value with its place: a row of a table, a document, or what is wrong there."""


_MARKS = {
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive, as .xlsx and .docx are",
    b"\x1f\x8b": "packed with gzip",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "a database (SQLite)",
    b"GGUF": "a model file (GGUF)",
}
"""First bytes of files that are no text, and what they are."""

MAX_RATIO, LEAST_LIMIT_BYTES = 200, 256 << 20
"""Bytes that one packed byte may give, from the limit on that any file may reach."""
# Rows of one template pack to a fiftieth; a bomb of one byte again and again to a thousandth.


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Part of a file of lines."""

    start: int
    end: int
    """Bytes, from the begin of a line to the end of one."""
    line: int
    """Number of lines before it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of data, or a part of it."""

    name: str
    """As the recipe spells it."""
    path: Path
    is_packed: bool
    cut: Cut | None = None

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file; raise ArtifactError for what cannot be read or unpacked."""
        try:
            with self._stored() as stream:
                yield _as_utf8(self.name, stream) if self.is_wide else stream
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            if str(error).startswith("Not a gzipped file"):
                raise ArtifactError(
                    f"{self.name}: not packed, though its name ends with .gz", hint="rename it"
                ) from error
            raise ArtifactError(
                f"{self.name}: cut off or damaged: {str(error).lower()}",
                hint=f"`gzip -t {self.name}` checks it",
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise ArtifactError(f"{self.name}: cannot be read: {reason}") from error

    @contextmanager
    def _stored(self) -> Iterator[IO[bytes]]:
        """Open the bytes of the file, unpacked."""
        if not self.is_packed:
            with self.path.open("rb") as plain:
                yield plain
            return
        with gzip.open(self.path) as unpacked:
            limit = max(LEAST_LIMIT_BYTES, MAX_RATIO * self.path.stat().st_size)
            bounded = _Bounded(self.name, cast("IO[bytes]", unpacked), limit)
            with io.BufferedReader(bounded) as stream:
                yield cast("IO[bytes]", stream)

    @cached_property
    def is_wide(self) -> bool:
        """Whether the file begins with the mark of UTF-16, as Excel's `Unicode Text` does."""
        try:
            with self._stored() as stream:
                head = stream.read(4)
        except (OSError, EOFError, zlib.error):
            return False  # `opened` says what is wrong
        return head[:2] in _WIDE_MARKS and head != codecs.BOM_UTF32_LE

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of each line; only a line feed ends one."""
        with self.opened() as stream:
            number = self.cut.line if self.cut else 0
            end = self.cut.end if self.cut else None
            if self.cut:
                stream.seek(self.cut.start)
            while (end is None or stream.tell() < end) and (
                line := stream.readline(MAX_LINE_BYTES + 1)
            ):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    limit = f"{MAX_LINE_BYTES >> 20} MiB"
                    raise ArtifactError(f"{self.name}:{number}: a line of more than {limit}")
                yield number, self._text(number, line.removesuffix(b"\n")).removesuffix("\r")

    def place(self, line: int, unit: str = "") -> Place:
        """Return a place in this file."""
        return Place(file=self.name, line=line, unit=unit)

    def _text(self, number: int, line: bytes) -> str:
        kind = next((name for mark, name in _MARKS.items() if line.startswith(mark)), "")
        if kind and number == 1:
            raise ArtifactError(f"{self.name}: {kind}, whatever its name says")
        try:
            # Marks of other encodings stand at the start of a file only.
            if number > 1 and b"\0" not in line:
                return line.decode()
            return decoded(line)
        except UnicodeDecodeError as error:
            problem = f"not valid UTF-8 at byte {error.start + 1} of the line"
            raise ArtifactError(f"{self.name}:{number}: {problem}", hint=NOT_UTF8) from error
        except Unreadable as error:
            hint = error.hint or NOT_UTF8
            raise ArtifactError(f"{self.name}:{number}: {error.problem}", hint=hint) from error


def _as_utf8(name: str, stream: IO[bytes]) -> IO[bytes]:
    """Return a stream in UTF-16 as one in UTF-8."""
    return cast("IO[bytes]", io.BufferedReader(_Narrowed(name, stream)))


class _Narrowed(io.RawIOBase):
    """What a file in UTF-16 holds, as UTF-8."""

    def __init__(self, name: str, stream: IO[bytes]) -> None:
        self._name = name
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")()
        self._ready = b""
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; raise ArtifactError for what is no UTF-16."""
        while not self._ready:
            content = self._stream.read(_WIDE_CHUNK)
            self._read += len(content)
            try:
                self._ready = self._decoder.decode(content, final=not content).encode()
            except UnicodeDecodeError as error:
                raise ArtifactError(
                    f"{self._name}: not valid UTF-16 within its first {self._read:,} bytes",
                    hint="save it as UTF-8",
                ) from error
            if not content:
                break
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


class _Bounded(io.RawIOBase):
    """What a packed file holds, up to a limit: a megabyte may hold a gigabyte of one row."""

    def __init__(self, name: str, stream: IO[bytes], limit: int) -> None:
        self._name = name
        self._stream = stream
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; raise ArtifactError behind the limit."""
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise ArtifactError(
                f"{self._name}: unpacks to more than {MAX_RATIO} times its size",
                hint=f"if it is meant to: gunzip {self._name}",
            )
        buffer[: len(content)] = content
        return len(content)
