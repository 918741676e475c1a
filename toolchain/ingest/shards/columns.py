"""Columns of a shard in files: numbers, signatures, and lines that are found again by number.

Nothing here holds more than a block: a shard may be a packed file larger than the memory.
"""

import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from toolchain.ingest.clean.near import BANDS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Kind = Literal["B", "I", "Q"]
"""Numbers of 1, 4 and 8 bytes, as `array` calls them."""
_HELD = 8192
"""Numbers that are written at once."""
_MARKED = 16
"""Each so many lines the place of one is noted."""
_ROWS = 65536
"""Signatures of a block; in it those of one band stand together."""


class Column:
    """Numbers that are appended to a file."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self._file = path.open("wb")
        self._held = array(kind)
        self._count = 0

    def add(self, value: int) -> None:
        """Append a number."""
        self._held.append(value)
        if len(self._held) == _HELD:
            self._write()

    def __len__(self) -> int:
        return self._count + len(self._held)

    def __enter__(self) -> "Column":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write()
        self._file.close()

    def _write(self) -> None:
        self._held.tofile(self._file)
        self._count += len(self._held)
        del self._held[:]


def numbers(path: Path, kind: Kind, first: int = 0, count: int = -1) -> "npt.NDArray[Any]":
    """Return the numbers of a column, or some of them."""
    import numpy as np

    kinds = {"B": np.uint8, "I": np.uint32, "Q": np.uint64}
    size = array(kind).itemsize
    return np.fromfile(path, kinds[kind], count, offset=first * size)


class Lines:
    """Lines that are appended to a file, and where each sixteenth begins."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._marks = Column(_marks_of(path), "Q")
        self._count = self._size = 0

    def add(self, line: str) -> None:
        """Append a line, which holds no line feed."""
        if self._count % _MARKED == 0:
            self._marks.add(self._size)
        content = line.encode() + b"\n"
        self._file.write(content)
        self._count += 1
        self._size += len(content)

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._marks.__exit__(kind, error, trace)
        self._file.close()


class LinesRead:
    """Lines of a file that `Lines` wrote."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        weakref.finalize(self, self._file.close)
        self._marks = numbers(_marks_of(path), "Q")

    def __getitem__(self, number: int) -> str:
        block, at = divmod(number, _MARKED)
        begin = int(self._marks[block])
        end = int(self._marks[block + 1]) if block + 1 < len(self._marks) else -1
        self._file.seek(begin)
        content = self._file.read(end - begin if end >= 0 else -1)
        return content.split(b"\n", at + 1)[at].decode()


def lines_in(path: Path) -> Iterator[str]:
    """Yield the lines of such a file in order."""
    with path.open("rb", buffering=1 << 18) as stream:
        for line in stream:
            yield line[:-1].decode()


def _marks_of(path: Path) -> Path:
    return path.with_suffix(".marks")


def sketches_path(path: Path) -> Path:
    """Return the file of the sketches that belong to signatures."""
    return path.with_suffix(".sketches")


class Signatures:
    """Signatures that are appended to a file, a block at a time, and their sketches to another."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self._file = path.open("wb")
        self._sketches = sketches_path(path).open("wb")
        self._block = np.empty((BANDS, _ROWS), np.uint32)
        self._filled = 0

    def add(self, signed: "npt.NDArray[np.uint32]", sketches: "npt.NDArray[np.uint8]") -> None:
        """Append signatures and sketches, a row each."""
        sketches.tofile(self._sketches)
        while len(signed):
            rows = signed[: _ROWS - self._filled]
            self._block[:, self._filled : self._filled + len(rows)] = rows.T
            self._filled += len(rows)
            signed = signed[len(rows) :]
            if self._filled == _ROWS:
                self._write()

    def close(self) -> None:
        """Write what is left."""
        self._write()
        self._file.close()
        self._sketches.close()

    def _write(self) -> None:
        self._block[:, : self._filled].tofile(self._file)
        self._filled = 0


def band_of(path: Path, count: int, band: int) -> Iterator["npt.NDArray[np.uint32]"]:
    """Yield one band of all `count` signatures of a file, block by block."""
    import numpy as np

    for first in range(0, count, _ROWS):
        rows = min(_ROWS, count - first)
        at = (first * BANDS + band * rows) * 4
        yield np.fromfile(path, np.uint32, rows, offset=at)
