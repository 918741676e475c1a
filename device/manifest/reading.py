"""Files that somebody else may have made, read within bounds of kind, size and JSON depth.

The rule: a file is checked before it is opened, and only a regular file is opened. So a FIFO, a
device, a link, a deep or a huge text cannot block or end the reader. Standard library only, Python
3.10 up.
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

MAX_DEPTH = 32
"""Maximum nesting of lists and objects; a manifest has five levels."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Pairs = Callable[[list[tuple[str, Any]]], Any]


class RepeatedKeyError(ValueError):
    """A key that occurs twice in one object of JSON."""

    def __init__(self, key: str) -> None:
        super().__init__("a key stands twice")
        self.key = key


def each_key_once(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    """Return an object; raise RepeatedKeyError for a key that occurs twice.

    Readers would differ on which of the two values counts.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RepeatedKeyError(first_repeated([key for key, _ in pairs]))
    return fields


def first_repeated(names: "list[str]") -> str:
    """Return the first name that occurs a second time; empty if none does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return ""


def open_regular(path: Path, flags: int = _READ) -> int:
    """Open a regular file and return its descriptor.

    Raise OSError for a missing file, a link, a FIFO, a device or a folder.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise _not_a_file(path)  # to open a device may already do something

    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # it was replaced in between
        raise _not_a_file(path)

    return descriptor


def stream_of(path: Path) -> BinaryIO:
    """Return a regular file opened for reading; raise OSError as `open_regular` does."""
    return os.fdopen(open_regular(path), "rb")


def read_bounded(path: Path, limit: int) -> "bytes | None":
    """Return a file's bytes, at most one more than `limit`.

    None if there is no such regular file.
    """
    try:
        with stream_of(path) as stream:
            return stream.read(limit + 1)
    except (OSError, ValueError):
        return None


def parse_json(content: bytes, *, pairs: "Pairs | None" = None) -> Any:
    """Return the value of a JSON text.

    Raise ValueError if it is not JSON, or deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(content, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("nested too deep") from error

    level = [value]
    depth = 0

    while level:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        level = [child for each in level for child in _children(each)]
        depth += 1

    return value


def _children(value: Any) -> "list[Any]":
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _not_a_file(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
