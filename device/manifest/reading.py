"""Files that somebody else may have made, read within bounds: their kind, their size and the depth of their JSON.

The rule: a file is looked at before it is opened, and only a regular one is. So neither a FIFO, a device, a link,
nor a deep or a huge text holds up or ends whoever reads it. Standard library only, Python 3.10 up.
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

MAX_DEPTH = 32
"""Lists and objects within each other; a manifest has five."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Pairs = Callable[[list[tuple[str, Any]]], Any]


def open_regular(path: Path, flags: int = _READ) -> int:
    """Open a regular file; return its descriptor. Raise OSError for a link, a FIFO, a device, a folder, or what is not there."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise _not_a_file(path)  # to open a device may already do something
    descriptor = os.open(path, flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)  # it was replaced in between
        raise _not_a_file(path)
    return descriptor


def stream_of(path: Path) -> BinaryIO:
    """Return a regular file opened to be read; raise OSError as `open_regular` does."""
    return os.fdopen(open_regular(path), "rb")


def read_bounded(path: Path, limit: int) -> "bytes | None":
    """Return a file's bytes, at most one more than `limit`; None where there is no such file, or a link or a device instead."""
    try:
        with stream_of(path) as stream:
            return stream.read(limit + 1)
    except (OSError, ValueError):
        return None


def parse_json(content: bytes, *, pairs: "Pairs | None" = None) -> Any:
    """Return what a JSON text says; raise ValueError for what is none, or deeper than MAX_DEPTH."""
    try:
        value = json.loads(content, object_pairs_hook=pairs)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deep")
        level, depth = [child for each in level for child in _children(each)], depth + 1
    return value


def _children(value: Any) -> "list[Any]":
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _not_a_file(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
