"""Who holds a lock is what the kernel says, whatever was noted."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.errors import DeviceError
from device.locks import holder, locked

HOLDS = """
import fcntl, sys, time
stream = open(sys.argv[-1])
fcntl.flock(stream, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "lock"
    file.touch()
    return file


@pytest.fixture
def other(lock: Path, tmp_path: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Another process that holds the lock, and looks like a verb of ours."""
    agent = tmp_path / "agent.py"
    agent.write_text(HOLDS)
    command = [sys.executable, "-sE", str(agent), "activate", str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"held\n"
        yield child
        child.kill()


def busy() -> DeviceError:
    return DeviceError("busy", "held")


def test_nobody_holds_a_free_lock(lock: Path, tmp_path: Path) -> None:
    assert holder(lock) is None
    assert holder(tmp_path / "missing") is None


def test_the_verb_and_the_process_that_holds_it_are_named(
    lock: Path, other: "subprocess.Popen[bytes]"
) -> None:
    seen = holder(lock)
    assert seen is not None
    assert (seen["verb"], seen["pid"]) == ("activate", other.pid)
    assert 0 <= seen["seconds"] < 60


def test_a_process_that_was_killed_holds_nothing(
    lock: Path, other: "subprocess.Popen[bytes]"
) -> None:
    other.kill()
    other.wait()
    assert holder(lock) is None


def test_whoever_waits_is_not_named(lock: Path, other: "subprocess.Popen[bytes]") -> None:
    words = ("import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX)", str(lock))
    with subprocess.Popen([sys.executable, "-c", *words]) as waiting:
        deadline = time.monotonic() + 10
        while "->" not in Path("/proc/locks").read_text():
            assert time.monotonic() < deadline, "it does not wait"
            time.sleep(0.02)
        seen = holder(lock)
        waiting.kill()
    assert seen is not None
    assert seen["pid"] == other.pid


def test_a_program_that_is_none_of_ours_is_named_so(lock: Path) -> None:
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        seen = holder(lock)
    assert seen is not None
    assert (seen["verb"], seen["pid"]) == ("another program", os.getpid())


def test_who_is_busy_is_said_as_it_is_when_the_wait_ends(
    lock: Path, other: "subprocess.Popen[bytes]"
) -> None:
    def late() -> DeviceError:
        return DeviceError("busy", f"held by {(holder(lock) or {}).get('pid')}")

    with pytest.raises(DeviceError, match=f"held by {other.pid}"), locked(lock, 0.05, late):
        pass


def test_a_lock_is_taken_once_it_is_let_go(lock: Path, other: "subprocess.Popen[bytes]") -> None:
    other.kill()
    with locked(lock, 10.0, busy):
        seen = holder(lock)
    assert seen is not None
    assert seen["pid"] == os.getpid()
