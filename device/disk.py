"""Every change that the store makes to the board's disk, one function for one system call.

The rule: what must survive a power cut is changed here and nowhere else, and called as `disk.<name>`, so that tests can count the
changes, end the program at each of them, let each fail, and forget what no fsync had covered (tests/fakes/disks.py).
"""

import json
import os
from pathlib import Path
from typing import Any, Union

Content = Union[bytes, bytearray, memoryview]
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_MORE = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def create(path: Path) -> int:
    """Open a file to be written anew; return its descriptor."""
    return os.open(path, _NEW, 0o644)


def reopen(path: Path) -> int:
    """Open a file, that may not be there, to be read and written at its end; return its descriptor."""
    return os.open(path, _MORE, 0o644)


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
    """Make an empty folder."""
    os.mkdir(path)


def rmdir(path: Path) -> None:
    """Take an empty folder away."""
    os.rmdir(path)


def open_lock(path: Path) -> int:
    """Open a file that is there to be locked (flock needs no right to write), also on a disk that became read-only."""
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


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
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
    replace(part, path)
    sync(path.parent)


def write_json(path: Path, value: "dict[str, Any]") -> None:
    """Replace a JSON file as a whole."""
    write_whole(path, (json.dumps(value, sort_keys=True) + "\n").encode())


def write_note(path: Path, value: "dict[str, Any]") -> None:
    """Replace a JSON file that a power cut may take: it says something about processes, and they are gone as well."""
    part = path.with_name(f".{path.name}.part")
    descriptor = create(part)
    try:
        write_all(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)
    replace(part, path)


def read_json(path: Path) -> "dict[str, Any] | None":
    """Return the object in a JSON file, None if there is none or it is broken."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


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
