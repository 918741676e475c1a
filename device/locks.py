"""A lock that several processes of a board wait for, but not for ever."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device import disk
from device.errors import DeviceError

_ASK_AGAIN_S = 0.02


@contextmanager
def locked(path: Path, wait_s: float, busy: DeviceError) -> Iterator[None]:
    """Hold the lock of a file; raise `busy` if another holds it for longer than `wait_s`."""
    with open(disk.open_lock(path)) as stream:
        deadline = time.monotonic() + wait_s
        while not _taken(stream.fileno()):
            if time.monotonic() >= deadline:
                raise busy
            time.sleep(_ASK_AGAIN_S)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
