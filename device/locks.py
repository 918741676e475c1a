"""A lock that several processes of a board wait for, but not for ever, and who holds it."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device import disk
from device.errors import DeviceError

_ASK_AGAIN_S = 0.02


@contextmanager
def locked(path: Path, wait_s: float, busy: Callable[[], DeviceError]) -> Iterator[None]:
    """Hold the lock of a file; raise `busy()` if another holds it for longer than `wait_s`."""
    with open(disk.open_lock(path)) as stream:
        deadline = time.monotonic() + wait_s
        while not _taken(stream.fileno()):
            if time.monotonic() >= deadline:
                raise busy()
            time.sleep(_ASK_AGAIN_S)
        yield


def holder(path: Path) -> "dict[str, Any] | None":
    """Return verb, process and seconds of the process that holds a file's lock; None if none does.

    The kernel says who it is: a note could be of a process that is gone.
    """
    from device.facts import process  # here: a service starts without the facts' modules

    try:
        inode = str(os.stat(path).st_ino)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None

    for words in map(str.split, lines):
        # "1: FLOCK ADVISORY WRITE 812 fe:00:1234 0 EOF"; one that waits has "->" before FLOCK.
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
            pid = int(words[4])
            if _has_open(pid, path):
                return process(pid)
    return None


def _has_open(pid: int, path: Path) -> bool:
    """Say whether a process has a file open: on another disk a file may have the same number."""
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False

    for link in links:
        try:
            if os.path.samefile(link, path):
                return True
        except OSError:
            continue
    return False


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
