"""Every change that the store makes to the board's disk, one function for one system call.

The rule: what must survive a power cut is changed here and nowhere else, and called as `disk.<name>`, so that tests can count the
changes, end the program at each of them, let each fail, and forget what no fsync had covered (tests/fakes/disks.py).
"""

import hashlib
import json
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Union

from device.manifest.reading import open_regular, parse_json, read_bounded

Content = Union[bytes, bytearray, memoryview]
MAX_JSON_BYTES = 1 << 20
"""More than any JSON file of the store has; manifests have a bound of their own."""
SEAL = "seal"
"""Field of a JSON file with the sha256 of all others: a card that flips a bit of a number leaves JSON that says something else."""
_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700
"""Whoever may open a file may lock it and so stop every verb (flock asks for no right to write): the store is its user's alone."""
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFELY
_MORE = os.O_RDWR | os.O_CREAT | os.O_APPEND | _SAFELY


def create(path: Path) -> int:
    """Open a file to be written anew; return its descriptor."""
    return _opened(path, _NEW)


def reopen(path: Path) -> int:
    """Open a file, that may not be there, to be read and written at its end; return its descriptor."""
    return _opened(path, _MORE)


def write(descriptor: int, content: Content) -> int:
    """Write some of the bytes; return how many."""
    return os.write(descriptor, content)


def truncate(descriptor: int, size: int) -> None:
    """Cut an open file to its first bytes."""
    os.ftruncate(descriptor, size)


def fsync(descriptor: int) -> None:
    """Put an open file's bytes, or an open folder's names, on the disk."""
    os.fsync(descriptor)


def replace(source: Path, target: Path) -> None:
    """Give a file or a folder another name, in one step; a file of that name is gone."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Give a file one more name."""
    os.link(source, target)


def symlink(target: str, path: Path) -> None:
    """Make a symbolic link."""
    os.symlink(target, path)


def unlink(path: Path) -> None:
    """Take a file's name away."""
    os.unlink(path)


def mkdir(path: Path) -> None:
    """Make an empty folder that only its user may enter, whatever the umask."""
    os.mkdir(path, _PRIVATE_FOLDER)
    os.chmod(path, _PRIVATE_FOLDER)


def rmdir(path: Path) -> None:
    """Take an empty folder away."""
    os.rmdir(path)


def open_lock(path: Path) -> int:
    """Open a file that is there to be locked (flock needs no right to write), also on a disk that became read-only."""
    return _opened(path, os.O_RDONLY | os.O_CREAT | _SAFELY)


def open_log(path: Path) -> BinaryIO:
    """Open a log to be written at its end; where that cannot be, what is written to it is lost and nothing waits for it."""
    try:
        return os.fdopen(reopen(path), "ab")
    except OSError:
        return open(os.devnull, "ab")


def keep_private(folder: Path) -> None:
    """Take a folder's rights away from other users: an earlier toolchain made it with those of the umask."""
    with suppress(OSError):
        seen = os.stat(folder)
        shared = seen.st_mode & stat.S_ISVTX  # somebody keeps a store in /tmp itself
        if seen.st_mode & 0o077 and seen.st_uid == os.geteuid() and not shared:
            os.chmod(folder, _PRIVATE_FOLDER)


def _opened(path: Path, flags: int) -> int:
    """Open a regular file that may not be there; what lies in its place and is none (a FIFO, a link, a device) makes room."""
    with suppress(FileNotFoundError):
        seen = os.lstat(path)
        if stat.S_ISREG(seen.st_mode):
            return open_regular(path, flags)
        remove(path)
    return os.open(path, flags, _PRIVATE)


CHANGES = (
    "create",
    "reopen",
    "write",
    "truncate",
    "fsync",
    "replace",
    "link",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
)
"""The functions above: all that the others below are made of."""


def sync(path: Path) -> None:
    """Put a file's bytes, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: Content) -> None:
    """Write every byte."""
    left = memoryview(content)
    while left:
        left = left[write(descriptor, left) :]


def write_new(path: Path, content: bytes) -> None:
    """Write a file and put its bytes on the disk; its name is there after a sync of its folder."""
    descriptor = create(path)
    try:
        write_all(descriptor, content)
        fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file as a whole: at any moment it is the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    write_new(part, content)
    _make_way(path)
    replace(part, path)
    sync(path.parent)


def _make_way(path: Path) -> None:
    """Take away a folder that lies where a file belongs: a rename replaces everything else."""
    if path.is_dir() and not path.is_symlink():
        remove(path)


def write_json(path: Path, value: "dict[str, Any]") -> None:
    """Replace a JSON file as a whole, sealed."""
    sealed = {**value, SEAL: seal_of(value)}
    write_whole(path, (json.dumps(sealed, sort_keys=True) + "\n").encode())


def seal_of(value: "dict[str, Any]") -> str:
    """Return the sha256 of an object's fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_note(path: Path, value: "dict[str, Any]") -> None:
    """Replace a JSON file that a power cut may take: it says something about processes, and they are gone as well."""
    part = path.with_name(f".{path.name}.part")
    descriptor = create(part)
    try:
        write_all(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)
    _make_way(path)
    replace(part, path)


def read_json(path: Path, *, sealed: bool = False) -> "dict[str, Any] | None":
    """Return the object in a JSON file; None if there is none, it is broken, or its seal is.

    One without a seal is of an earlier toolchain, or a note; `sealed` takes none of those.
    """
    content = read_bounded(path, MAX_JSON_BYTES)
    if content is None or len(content) > MAX_JSON_BYTES:
        return None
    try:
        value = parse_json(content)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    seal = value.pop(SEAL, None)
    sound = seal == seal_of(value) if seal is not None else not sealed
    return value if sound else None


def make_folder(path: Path) -> None:
    """Make a folder if it is not there, with the parents that are missing, and put its name on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        try:
            mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a folder with all that is in it, or a file; neither has to be there."""
    if path.is_dir() and not path.is_symlink():
        for entry in list(path.iterdir()):
            remove(entry)
        rmdir(path)
    elif path.is_symlink() or path.exists():
        unlink(path)
