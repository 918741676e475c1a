"""`leased`: runs a verb of the current runtime for a host, and ends it when that host is gone.

A measurement is of no use to anybody else. Without a terminal sshd leaves a command running whose
host was killed, and of a cable that was pulled it hears nothing. So the host writes a newline on
standard input every few seconds. End of file, or a long silence, ends the verb. The search of
`calibrate` ends alike (device/calibration.py). The rules: one measurement at a time, and `leased`
never touches the service.
"""

import argparse
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from device import disk
from device.child import die_with_parent
from device.errors import DeviceError
from device.facts import MEASURING, measuring, started_ticks, uptime_s
from device.locks import holder, locked
from device.manifest.leases import IN_RUNTIME, SILENT_S, WAIT_S
from device.service import python_command
from device.store import Store


def leased(argv: list[str]) -> int:
    """Run a verb for a host: `leased --root ROOT --runtime ID VERB WORDS…`; return its status.

    Raise DeviceError `busy` if another measurement goes on, `cut` if the host is gone.
    """
    options = _options(argv)
    store = Store(options.root)
    command = [*python_command(store, options.runtime), options.verb, *options.words]

    with alone(store.root / "run", options.verb):
        code = _run(command, options.silent)

    return code if code >= 0 else 128 - code


@contextmanager
def alone(run: Path, verb: str) -> Iterator[None]:
    """Hold the lock of measurements, with a note of who measures; both end with this process."""
    with locked(run / f"{MEASURING}.lock", WAIT_S, partial(_busy, run.parent)):
        note = run / f"{MEASURING}.json"
        with suppress(OSError):  # a disk that takes no byte any more can be measured, too
            own = {"pid": os.getpid(), "started": started_ticks(os.getpid())}
            disk.write_note(note, {"verb": verb, "began": uptime_s(), **own})
        try:
            yield
        finally:
            with suppress(OSError):
                disk.remove(note)


@contextmanager
def ends_with_host(child: "subprocess.Popen[bytes]", silent_s: float) -> Iterator[None]:
    """Kill a child and its group if the host goes before the end of this block.

    Raise DeviceError `cut` at its end then. The child leads a group.
    """
    over, open_end = os.pipe()
    gone: "list[DeviceError]" = []

    def follow() -> None:
        """Kill the child once the host is gone."""
        try:
            _follow_host(over, silent_s)
        except DeviceError as error:
            gone.append(error)
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        os.close(open_end)
        follower.join()
        os.close(over)
    if gone:
        raise gone[0]


def under_way(root: Path) -> "dict[str, Any] | None":
    """Return verb, process and seconds of the measurement that goes on; None if there is none."""
    # On a disk that takes no byte there is no note, and the kernel knows the process alone.
    return measuring(str(root)) or holder(root / "run" / f"{MEASURING}.lock")


def _busy(root: Path) -> DeviceError:
    other = under_way(root)
    who = f": `{other['verb']}`, process {other['pid']}, for {other['seconds']} s" if other else ""
    return DeviceError(
        "busy",
        f"this board is being measured already{who}",
        hint="two at once would both be wrong: wait until it ends",
    )


def _run(command: "list[str]", silent_s: float) -> int:
    """Run a command as long as the host lives; return its exit status, -n if it died by signal n.

    Raise DeviceError `cut` once the host is gone; the command has ended then.
    """
    # Only the command has the writing end, so the reading end is at its end when the command is.
    ended, alive = os.pipe()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, pass_fds=[alive], preexec_fn=die_with_parent
    )
    os.close(alive)
    try:
        _follow_host(ended, silent_s)
        return child.wait()
    finally:
        child.kill()
        child.wait()
        os.close(ended)


def _follow_host(ended: int, silent_s: float) -> None:
    """Return when `ended` is at its end; raise DeviceError `cut` if the host goes before."""
    heard = time.monotonic()
    while True:
        left = max(0.0, heard + silent_s - time.monotonic())
        ready = select.select([0, ended], [], [], left)[0]
        if ended in ready:
            return
        if not ready:
            raise DeviceError("cut", f"the host said nothing for {silent_s:g} s, so this ended")
        if not os.read(0, 4096):
            raise DeviceError("cut", "the host hung up, so this ended")
        heard = time.monotonic()


def _options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="leased")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--silent", type=float, default=SILENT_S, metavar="SECONDS")
    parser.add_argument("verb", choices=IN_RUNTIME)
    parser.add_argument("words", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)
