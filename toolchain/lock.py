"""One walk at a time in a work folder, by a lock that the kernel frees when its holder ends.

The lock (flock(2)) is on the folder itself, so that it needs no file and works where nothing may be
written. It is advisory: `--dry-run` and whatever only reads take none.
"""

import errno
import fcntl
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from toolchain.errors import ConfigError
from toolchain.progress import Reporter

HOLDER = ".running"
"""Who holds the lock, in words; of no meaning where nobody does."""
EVERY_S = 0.5
_held: set[tuple[int, int]] = set()
"""Device and inode of each folder that this process has locked."""
# A walk within a walk does not wait for itself.
_NO_LOCKS = {errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems of a network say that have no locks, or none on folders."""


@contextmanager
def locked(folder: Path, report: Reporter) -> Iterator[None]:
    """Hold a work folder; say which process holds it, and wait for it.

    A folder that is missing is made, and removed again if nothing was put into it.
    """
    is_new = not folder.exists()
    handle = _opened(folder)
    try:
        if _place(handle) in _held:
            yield
            return
        _wait(handle, folder, report)
        while not os.fstat(handle).st_nlink:  # whoever held it has removed it
            fresh = _opened(folder)
            os.close(handle)
            handle = fresh
            _wait(handle, folder, report)

        place = _place(handle)
        _held.add(place)
        try:
            _write_holder(folder)
            yield
        finally:
            with suppress(OSError):
                (folder / HOLDER).unlink()
                if is_new:
                    folder.rmdir()
            _held.discard(place)
    finally:
        os.close(handle)  # and with it the lock


def _opened(folder: Path) -> int:
    """Return a handle of a folder, made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        problem = f"{folder}: cannot be used as a work folder: {(error.strerror or '').lower()}"
        raise ConfigError(problem, hint="name another one with --out") from error


def _place(handle: int) -> tuple[int, int]:
    """Return device and inode of an open folder."""
    about = os.fstat(handle)
    return about.st_dev, about.st_ino


def _wait(handle: int, folder: Path, report: Reporter) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in _NO_LOCKS:
                report.note(f"{folder}: this file system has no locks: let no other run work here")
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                raise
        if not told:
            told = True
            report.note(f"{folder}: {_holder(folder)} works here; waiting until it ends")
        time.sleep(EVERY_S)


def _write_holder(folder: Path) -> None:
    words = shlex.join(["demitasse", *sys.argv[1:]])
    with suppress(OSError):
        (folder / HOLDER).write_text(f"process {os.getpid()} ({words})", encoding="utf-8")


def _holder(folder: Path) -> str:
    """Return who holds the lock, as it says itself."""
    try:
        return (folder / HOLDER).read_text(encoding="utf-8", errors="replace")[
            :300
        ] or "another run"
    except OSError:
        return "another run"
