"""What people think of answers: a bounded ring of rows on the board's disk.

    feedback/ring.json          the ring's random name: another name means that its rows begin anew
    feedback/<number>.jsonl     rows from this number on, a sealed line each
    feedback/lock               held by whoever writes

It lies in the store, but in no release: so it survives a push and a rollback. The rule to keep: a
row is on the disk before it is said to be kept, and no cut leaves more than its own row broken.
Standard library only.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from device import disk
from device.errors import DeviceError, of_the_disk
from device.locks import locked
from device.manifest.reading import parse_json, read_bounded, stream_of

FOLDER = "feedback"
PARTS = 8
"""Number of files of a full ring: the oldest one is deleted to make room."""
MAX_ROW_BYTES = 64 << 10
_MAX_PART_BYTES = 64 << 20
"""Bytes that are read of one file, at most."""
_TAIL_BYTES = 2 * MAX_ROW_BYTES
"""Bytes at the end of a file that hold at least one whole row."""
_NAME, _SUFFIX = "ring.json", ".jsonl"
_DIGITS = 12
_LOCK_S = 5.0
"""Seconds to wait for another writer."""

Row = Mapping[str, Any]


class Ring:
    """One ring, by its folder. Any thread and any process may use it."""

    def __init__(self, folder: Path, size_bytes: int = 0) -> None:
        """`size_bytes` is its most; 0 for a ring that is only read or emptied."""
        self._folder = folder
        self._size_bytes = size_bytes

    def name(self) -> str:
        """Return the ring's random name; empty if nothing was ever kept."""
        noted = disk.read_json(self._folder / _NAME, sealed=True) or {}
        name = noted.get("name")
        return name if isinstance(name, str) else ""

    def size_bytes(self) -> int:
        """Return the bytes of its rows."""
        return sum(_size(part) for part in self._parts())

    def append(self, row: Row) -> int:
        """Keep a row and return its number; raise DeviceError if it cannot be kept.

        Numbers grow, and none is given twice.
        """
        try:
            with self._locked():
                return self._append(row)
        except OSError as error:
            raise of_the_disk(error) from error

    def rows(self, after: int = 0) -> Iterator["dict[str, Any]"]:
        """Yield the whole rows with a larger number than `after`, oldest first.

        A row that is torn or has rotted is passed over.
        """
        parts = self._parts()
        for part, following in zip(parts, [*parts[1:], None], strict=False):
            if following and _first(following) <= after + 1:
                continue
            yield from (row for row in _read(part) if row["n"] > after)

    def last(self) -> int:
        """Return the number of the newest row; 0 if there was none."""
        parts = self._parts()
        return _tail(parts[-1])[0] if parts else 0

    def forget(self, through: "int | None" = None) -> int:
        """Delete the rows up to a number, all of them by default; return how many were deleted.

        The numbers of rows that come later go on.
        """
        with self._locked():
            last = self.last()
            through = last if through is None else min(through, last)
            forgotten: int = sum(int(row["n"]) <= through for row in self.rows())
            self._delete(through, last)

        return forgotten

    def _append(self, row: Row) -> int:
        self._made()
        parts = self._parts()
        part = parts[-1] if parts else self._part(1)
        number = _tail(part)[0] + 1
        line = _line({**row, "n": number})
        if len(line) > MAX_ROW_BYTES:
            raise DeviceError("too_large", "it is longer than a row of feedback may be", status=413)

        if parts and _size(part) + len(line) > self._size_bytes // PARTS:
            part = self._part(number)
        self._make_room(part, len(line))
        _write(part, line)
        return number

    def _made(self) -> None:
        """Make the folder and give the ring its name, if it has none."""
        if not self.name():
            disk.write_json(self._folder / _NAME, {"name": secrets.token_hex(16)})

    def _make_room(self, coming: Path, length: int) -> None:
        """Delete the oldest files until a line more is within the ring's size."""
        parts = [part for part in self._parts() if part != coming]
        taken = _size(coming) + sum(map(_size, parts))
        for part in parts:
            if taken + length <= self._size_bytes:
                return
            taken -= _size(part)
            disk.unlink(part)

    def _delete(self, through: int, last: int) -> None:
        parts = self._parts()
        if not parts or through <= 0:
            return

        if through >= last:
            # The next number stands in a file's name: it is there before the old files are gone.
            fresh = self._part(last + 1)
            disk.write_new(fresh, b"")
            disk.sync(self._folder)
            old = [part for part in parts if part != fresh]
        else:
            old = [part for part, following in pairwise(parts) if _first(following) <= through + 1]
            first_left = next(part for part in parts if part not in old)
            kept = [row for row in _read(first_left) if row["n"] > through]
            disk.write_whole(first_left, b"".join(map(_line, kept)))

        for part in old:
            disk.unlink(part)
        disk.sync(self._folder)

    def _part(self, first: int) -> Path:
        return self._folder / f"{first:0{_DIGITS}}{_SUFFIX}"

    def _parts(self) -> "list[Path]":
        """Return the files with rows, oldest first; names that are not ours are passed over."""
        try:
            names = os.listdir(self._folder)
        except OSError:
            return []
        stems = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
        ours = [stem for stem in stems if len(stem) == _DIGITS and stem.isdecimal()]
        return [self._folder / f"{stem}{_SUFFIX}" for stem in sorted(filter(str.isascii, ours))]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        disk.make_folder(self._folder)
        with locked(self._folder / "lock", _LOCK_S, _busy):
            yield


def _busy() -> DeviceError:
    return DeviceError("busy", "another process is writing feedback", "try again", status=503)


def ring_of(bundle: Path, size_bytes: int) -> "Ring | None":
    """Return the ring of the store that a release lies in; None if nothing is to be kept.

    A bundle outside of a store has none.
    """
    from device.store import beside

    folder = beside(bundle, FOLDER)
    return Ring(folder, size_bytes) if folder and size_bytes else None


def _write(part: Path, line: bytes) -> None:
    """Append a line to a file; whatever fails, the lines before it stay whole."""
    is_new = not part.exists()
    descriptor = disk.reopen(part)
    try:
        whole = _tail(part)[1]
        if os.fstat(descriptor).st_size != whole:
            disk.truncate(descriptor, whole)  # a power cut left a piece of a line
        try:
            disk.write_all(descriptor, line)
            disk.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                disk.truncate(descriptor, whole)
            raise
    finally:
        os.close(descriptor)

    if is_new:
        disk.sync(part.parent)


def _tail(part: Path) -> "tuple[int, int]":
    """Return the number of a file's newest row, and the bytes of its whole lines.

    The number is the one before the file's first if it has no whole row.
    """
    size = _size(part)
    start = max(0, size - _TAIL_BYTES)
    number, whole = _tail_from(part, start)
    return (number, whole) if number or not start else _tail_from(part, 0)


def _tail_from(part: Path, start: int) -> "tuple[int, int]":
    try:
        with stream_of(part) as stream:
            stream.seek(start)
            content = stream.read(_MAX_PART_BYTES)
    except OSError:
        return _first(part) - 1, 0

    whole = start + content.rfind(b"\n") + 1
    for line in reversed(content[: whole - start].split(b"\n")):
        if row := _row_of(line):
            return int(row["n"]), whole
    return (0 if start else _first(part) - 1), whole


def _line(row: Row) -> bytes:
    """Return a row as a line with its seal."""
    plain = {name: value for name, value in row.items() if name != disk.SEAL}
    sealed = {**plain, disk.SEAL: disk.seal_of(plain)}
    return json.dumps(sealed, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _read(part: Path) -> Iterator["dict[str, Any]"]:
    """Yield a file's rows whose seal holds."""
    content = read_bounded(part, _MAX_PART_BYTES) or b""
    yield from filter(None, map(_row_of, content[: content.rfind(b"\n") + 1].split(b"\n")))


def _row_of(line: bytes) -> "dict[str, Any] | None":
    """Return the row in a line; None if it is torn or has rotted."""
    try:
        row = parse_json(line) if line else None
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None

    seal = row.pop(disk.SEAL, None)
    return row if seal == disk.seal_of(row) and type(row.get("n")) is int else None


def _first(part: Path) -> int:
    return int(part.stem)


def _size(part: Path) -> int:
    try:
        return part.lstat().st_size
    except OSError:
        return 0
