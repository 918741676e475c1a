"""The processes that serve a store: who they are, how they ended, and the pause.

A supervisor and its child share a lock, and note their ids in `run`. A number in a note may be
rotten, forged, or another process's by now, so each one is checked before it is believed.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from device import disk
from device.disk import read_json
from device.errors import DeviceError
from device.store import Store

NOTE = "service.json"
"""File in `run` with the ids of the processes that serve."""
STOP_S = 10.0
MOST_WORDS = 2000
_SIGNALS = {int(signal.SIGKILL): "killed, most likely out of memory"}
"""Signals whose usual cause says more than their name."""


@contextmanager
def paused(store: Store) -> Iterator[None]:
    """Keep supervisors from starting a model; the pause ends with this process, however it ends."""
    with open(disk.open_lock(store.root / "run" / "pause.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_paused(store: Store) -> bool:
    """Say whether some process holds the pause."""
    return _is_locked(store.root / "run" / "pause.lock")


def supervisor_lives(run: Path) -> bool:
    """Say whether the lock that supervisor and child share is held."""
    return _is_locked(run / "service.lock")


def end_supervisor(run: Path) -> None:
    """End the running supervisor and its child; raise DeviceError `cannot_stop` if they survive."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in groups(run):
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        deadline = time.monotonic() + STOP_S
        while supervisor_lives(run) and time.monotonic() < deadline:
            time.sleep(0.02)
    if supervisor_lives(run):
        raise DeviceError("cannot_stop", "the running service does not end", "reboot the board")


def note_supervisor(run: Path, child: "int | None", left: "int | None" = None) -> None:
    """Note which processes serve: a supervisor's group, its child, and what another one left."""
    with suppress(OSError):
        disk.write_note(run / NOTE, {"group": os.getpgid(0), "child": child, "left": left})


def left_behind(run: Path) -> "tuple[int | None, int | None]":
    """Return the child that a killed supervisor left, and its process group."""
    return serving_process(run), next(iter(groups(run)), None)


def supervisor_group(run: Path) -> "int | None":
    """Return the process group of the running supervisor."""
    group = (read_json(run / NOTE) or {}).get("group")
    return group if supervisor_lives(run) and _is_ours(run, group, "supervise") else None


def groups(run: Path) -> list[int]:
    """Return the process groups that may be ended, without numbers that are rotten or of others."""
    note = read_json(run / NOTE) or {}
    child = serving_process(run)
    of_child = 0

    with suppress(ProcessLookupError):
        of_child = os.getpgid(child) if child else 0

    return [
        group
        for group in (note.get("group"), note.get("left"))
        if type(group) is int and (_is_ours(run, group, "supervise") or 0 < group == of_child)
    ]


def _is_ours(run: Path, pid: Any, verb: str) -> bool:
    """Say whether a process runs a verb on this store."""
    # A number in a note may be rotten, forged, or another process's by now.
    if type(pid) is not int or pid <= 1:
        return False

    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False

    return os.fsencode(run.parent) in words and f"\0{verb}\0".encode() in words


def serving_process(run: Path) -> "int | None":
    """Return the process that serves; None if there is none."""
    child = (read_json(run / NOTE) or {}).get("child")
    return child if supervisor_lives(run) and _is_ours(run, child, "serve") else None


def last_end(run: Path) -> str:
    """Return how the serving process ended since the last start; empty if it did not."""
    how = (read_json(run / "ended.json") or {}).get("how", "")
    return how[:MOST_WORDS] if isinstance(how, str) else ""


def _is_locked(path: Path) -> bool:
    with open(disk.open_lock(path)) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def how_it_ended(code: int) -> str:
    """Return a child's exit status in words."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = _SIGNALS.get(-code) or signal.strsignal(-code) or "unknown"
    return f"died by signal {-code} ({name.lower()})"
