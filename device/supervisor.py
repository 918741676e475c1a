"""`supervise`: runs the current release, and runs it again when it ends, until it is told to stop.

So a board comes back by itself. A release that no activation has committed is on trial as long as
that activation lives; if it dies, the last committed release runs again. A release whose bytes have
rotted is replaced by the one before it. The rule: a disk that takes no byte any more does not keep
it from running.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from device import disk, processes, service, trust
from device.errors import DeviceError
from device.logs import LOG
from device.manifest import ManifestError
from device.store import Deployment, Store

LOG_LIMIT_BYTES = 1 << 20
BACK_OFF_S = (1, 2, 4, 8, 16, 30)
STEADY_S = 60.0
"""Seconds after which a service that ends is restarted without waiting."""
LOOK_S = 0.1
"""Seconds between two looks at a pause and a trial."""


def supervise(argv: list[str]) -> int:
    """Replace the running supervisor and serve what is current: `supervise --root ROOT`."""
    parser = argparse.ArgumentParser(prog="supervise")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument(
        "--after", action="store_true", help="let what a killed supervisor left serve to its end"
    )
    options = parser.parse_args(argv)
    store = Store(options.root)
    run = store.root / "run"

    with open(disk.open_lock(run / "service.lock")) as lock:
        if options.after:
            processes.note_supervisor(run, *processes.left_behind(run))
        else:
            processes.end_supervisor(run)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _Supervisor(store, lock.fileno()).run()

    return 0


class _Supervisor:
    def __init__(self, store: Store, lock: int) -> None:
        self._store = store
        self._run = store.root / "run"
        self._lock = lock
        self._log = self._run / LOG
        self._child: "subprocess.Popen[bytes] | None" = None
        self._stopping = False

    def run(self) -> None:
        """Serve until SIGTERM, whatever is in the store."""
        signal.signal(signal.SIGTERM, self._stop)
        with suppress(OSError):
            disk.remove(self._run / "ended.json")

        self._note_child(None)
        tries = 0

        while not self._stopping:
            began = time.monotonic()
            how = self._try()
            if how:
                self._note("ended.json", {"how": how})

            tries = 0 if not how or time.monotonic() - began > STEADY_S else tries + 1
            self._rest(BACK_OFF_S[min(tries - 1, len(BACK_OFF_S) - 1)] if tries else LOOK_S)

        with suppress(OSError):
            disk.remove(
                self._run / processes.NOTE
            )  # one that stays is of a supervisor that was killed

    def _try(self) -> str:
        """Run what is current, unless there is a pause; return how it ended.

        Empty if the end was intended.
        """
        try:
            return "" if processes.is_paused(self._store) else self._serve()
        except Exception as error:  # a supervisor that ends is a board that does not come back
            traceback.print_exc()
            _bound(self._run / service.OWN_LOG)
            return f"was refused: {type(error).__name__}: {error}"

    def _serve(self) -> str:
        """Run what is current until it ends; return how it ended.

        Empty if the end was intended.
        """
        if self._obeys_stop():
            return ""

        try:
            deployment, on_trial = self._choose()
        except DeviceError as error:
            return f"was refused: {error.message}"
        except (ManifestError, OSError) as error:
            return f"was refused: {error}"

        child = self._start(deployment)
        if on_trial and not self._stands(child, deployment):
            _end(child)
            return ""

        code = self._wait(child)
        return "" if self._stopping else processes.how_it_ended(code)

    def _stands(self, child: "subprocess.Popen[bytes]", deployment: Deployment) -> bool:
        """Wait until a trial ends; return False if the activation died before it committed."""
        while child.poll() is None:
            time.sleep(LOOK_S)
            if self._recovers():
                return self._store.confirmed() == deployment
        return True

    def _choose(self) -> "tuple[Deployment, bool]":
        """Return the deployment to run, and whether it is on trial.

        On trial means that an activation has just checked it and has not committed it.
        """
        switching = not self._recovers()
        confirmed = self._store.confirmed()
        current = self._store.current() if switching else confirmed
        if not current:
            raise DeviceError("nothing_deployed", "there is no release on this board", "push one")
        # A release that a failed switch goes back to was not checked by that switch.
        on_trial = switching and current != confirmed
        return (current, True) if on_trial else (self._sound(current), False)

    def _obeys_stop(self) -> bool:
        """End this supervisor if the owner had stopped the service; say whether it had.

        An activation that was killed leaves one that nobody wants.
        """
        # A commit, which ends a stop, may come between the first look and the lock.
        if not (self._store.is_stopped and self._recovers() and self._store.is_stopped):
            return False

        self._stopping = True
        confirmed = self._store.confirmed()
        if confirmed and confirmed.service == service.SYSTEMD:
            service.choose(self._store, service.SYSTEMD).stop()
        return True

    def _recovers(self) -> bool:
        """Restore the last commit after a switch that was cut short.

        Return False during a switch.
        """
        try:
            with self._store.locked(wait_s=0):
                with suppress(OSError):
                    self._store.recover()
                return True
        except DeviceError as error:
            if error.code != "busy":
                raise
            return False

    def _sound(self, current: Deployment) -> Deployment:
        """Return a deployment if a trusted key signed all its bytes.

        Otherwise return the previous one, which becomes current.
        """
        try:
            trust.check(self._store, current, self._store.check)
        except (DeviceError, OSError):
            previous = self._store.previous()
            if not previous:
                raise
            trust.check(self._store, previous, self._store.check)
            with suppress(OSError), self._store.locked():
                self._store.switch(previous, None)
                self._store.commit(previous)
            return previous
        return current

    def _start(self, deployment: Deployment) -> "subprocess.Popen[bytes]":
        command = service.serve_command(self._store, deployment)
        with disk.open_log(self._log) as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[self._lock]
            )

        self._child = child
        self._note_child(child.pid)
        if self._stopping:
            child.terminate()

        return child

    def _wait(self, child: "subprocess.Popen[bytes]") -> int:
        while True:
            try:
                return child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                _bound(self._log)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        if self._child:
            self._child.terminate()

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(LOOK_S)

    def _note_child(self, pid: "int | None") -> None:
        processes.note_supervisor(self._run, pid)

    def _note(self, name: str, value: "dict[str, Any]") -> None:
        with suppress(OSError):
            disk.write_note(self._run / name, value)


def _bound(log: Path) -> None:
    """Cut a log that has grown too large to its last quarter."""
    with suppress(OSError), open(disk.reopen(log), "r+b") as stream:
        if os.fstat(stream.fileno()).st_size > LOG_LIMIT_BYTES:
            stream.seek(-LOG_LIMIT_BYTES // 4, os.SEEK_END)
            tail = stream.read(LOG_LIMIT_BYTES)
            stream.truncate(0)
            stream.write(tail)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(timeout=processes.STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
