"""Lives a board's life (board_life.py) in child processes that end badly on the way, and looks at
what is left.

`python -m tests.fakes.killer CARGO ROOT HOW FROM TO STEP`: HOW is `change` (SIGKILL before the n-th
change of the disk; within it where it is a write), `moment` (SIGKILL at a random moment), `once` or
`ever` (the n-th change fails, or all from there on). One JSON line each.
"""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device import disk
from device.errors import DeviceError
from tests.fakes.board_life import NOTHING, Life, without_processes
from tests.fakes.disks import build, read

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)


def main(cargo: Path, root: Path, how: str, numbers: range) -> None:
    """Print what is left after each end."""
    whole = read(root)
    took = _time(cargo, root, whole)
    for number in numbers:
        folder = root.with_name(f"{root.name}-{how}-{number}")
        build(whole, folder)
        print(json.dumps({"number": number} | _one(cargo, folder, how, number, took)), flush=True)
        shutil.rmtree(folder)


def _one(cargo: Path, folder: Path, how: str, number: int, took: float) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _live(cargo, folder, how, number, writer)
    os.close(writer)
    if how == "moment":
        time.sleep(random.Random(number).uniform(0, took))
        os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finished = len(os.read(reader, 100))
    os.close(reader)
    life = Life(cargo, folder)
    states = [NOTHING, *(after for after, _ in life.steps())]
    seen: dict[str, Any] = {
        "ended": ended,
        "finished": finished,
        "may": states[finished : finished + 2],
    }
    try:
        seen["serves"] = life.serves()
        with without_processes():
            life.bring("runtime2", "release3")
            life.activate("release3", "runtime2")
        seen["later"] = life.serves()[0]
    except (AssertionError, DeviceError, OSError):
        seen["fault"] = traceback.format_exc()
    return seen


def _live(cargo: Path, folder: Path, how: str, number: int, progress: int) -> None:
    """Live in this process and end it: 0 where life was finished, 3 where an error ended it."""
    try:
        _arm(how, number)
        life = Life(cargo, folder)
        with without_processes():
            for _, step in life.steps():
                step()
                os.write(progress, b".")
    except (DeviceError, OSError):
        os._exit(3)
    except BaseException:
        traceback.print_exc()
        os._exit(4)
    os._exit(0)


def _arm(how: str, number: int) -> None:
    if how == "moment":
        return
    count = 0
    end = _kill if how == "change" else _fail

    def trap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == number or (how == "ever" and count > number):
                end(name, number, real, arguments)
            return real(*arguments)

        return call

    for name in disk.CHANGES:
        setattr(disk, name, trap(name, getattr(disk, name)))


def _kill(name: str, number: int, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if name == "write":
        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def _fail(name: str, number: int, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    code = ERRORS[number % len(ERRORS)]
    raise OSError(code, os.strerror(code))


def _time(cargo: Path, root: Path, whole: Any) -> float:
    """Return how long a life takes that nobody ends."""
    folder = root.with_name(f"{root.name}-timed")
    build(whole, folder)
    began = time.monotonic()
    with without_processes():
        for _, step in Life(cargo, folder).steps():
            step()
    shutil.rmtree(folder)
    return time.monotonic() - began


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        sys.argv[3],
        range(int(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])),
    )
