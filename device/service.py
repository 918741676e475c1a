"""The service of a store: a systemd user unit where there is systemd, else a small supervisor process of our own.

Both run `AGENT supervise`, which reads what is current when it starts; so a switch needs a restart and nothing else.
"""

import argparse
import fcntl
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Protocol

from device.disk import make_folder, read_json, remove, write_note, write_whole
from device.errors import DeviceError
from device.store import Deployment, Store

SYSTEMD, SUPERVISED = "systemd", "supervised"
LOG_LIMIT_BYTES = 1 << 20
BACK_OFF_S = (1, 2, 4, 8, 16, 30)
STEADY_S = 60.0
"""A service that ran for so long starts again without waiting."""
STOP_S = 10.0
_SIGNALS = {int(signal.SIGKILL): "killed, most likely out of memory"}
"""Signals whose usual cause says more than their name."""
_UNIT = """\
[Unit]
Description=demitasse: a language model on this board
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=always
RestartSec=5

[Install]
WantedBy=default.target
"""


class Service(Protocol):
    """What keeps the current release running."""

    kind: str
    survives_reboot: bool
    hint: str
    """What to do so that it survives a reboot, where it does not."""

    def start(self) -> None:
        """Run what is current."""

    def stop(self) -> None:
        """End it, and do not start it again."""

    def pid(self) -> int | None:
        """Return the process that serves, None if there is none."""

    def failure(self) -> str:
        """Return how the process ended since the last start, "" if it did not."""


class Supervised:
    """A supervisor process of our own: it lives until the board goes off."""

    kind = SUPERVISED
    survives_reboot = False
    hint = "the service ends when the board goes off: systemd with lingering would start it again"

    def __init__(self, store: Store) -> None:
        self._root, self._run = store.root, store.root / "run"

    def start(self) -> None:
        """Start the supervisor, away from this session."""
        remove(self._run / "ended.json")
        with open(self._run / "supervisor.log", "ab") as log:
            command = [sys.executable, "-sE", agent(), "supervise", "--root", str(self._root)]
            supervisor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        while not self._alive():
            if supervisor.poll() is not None:
                raise DeviceError("unhealthy", "the supervisor ended at once", f"its log: {self._run / 'supervisor.log'}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the supervisor and its child."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._alive():
                return
            self._signal(number)
            deadline = time.monotonic() + STOP_S
            while self._alive() and time.monotonic() < deadline:
                time.sleep(0.05)
        if self._alive():
            raise DeviceError("cannot_stop", "the running service does not end", "reboot the board")

    def pid(self) -> int | None:
        """Return the serving process."""
        return (read_json(self._run / "service.json") or {}).get("child") if self._alive() else None

    def failure(self) -> str:
        """Return how the serving process last ended."""
        return str((read_json(self._run / "ended.json") or {}).get("how", ""))

    def _alive(self) -> bool:
        """Say whether the lock is held that supervisor and child share."""
        with open(self._run / "service.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def _signal(self, number: signal.Signals) -> None:
        group = (read_json(self._run / "service.json") or {}).get("group")
        if group:
            try:
                os.killpg(int(group), number)
            except ProcessLookupError:
                return


class Systemd:
    """A systemd unit of the board's user."""

    kind = SYSTEMD

    def __init__(self, store: Store) -> None:
        self._root = store.root
        self._name = unit_name(store.root)
        self.survives_reboot = _lingers()
        self.hint = "" if self.survives_reboot else f"sudo loginctl enable-linger {getpass.getuser()}"

    def start(self) -> None:
        """Write the unit and start it, now and at boot."""
        folder = Path.home() / ".config" / "systemd" / "user"
        make_folder(folder)
        command = " ".join(map(_unit_word, [sys.executable, "-sE", agent(), "supervise", "--once", "--root", str(self._root)]))
        write_whole(folder / self._name, _UNIT.format(command=command).encode())
        systemctl("daemon-reload")
        systemctl("reset-failed", self._name, check=False)
        systemctl("enable", self._name)
        systemctl("restart", self._name)
        subprocess.run(["loginctl", "enable-linger"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        self.survives_reboot = _lingers()

    def stop(self) -> None:
        """Stop the unit, now and at boot."""
        systemctl("disable", "--now", self._name, check=False)

    def pid(self) -> int | None:
        """Return the unit's main process."""
        return int(self._property("MainPID") or 0) or None

    def failure(self) -> str:
        """Return how the unit's process last ended."""
        if self._property("NRestarts") in ("", "0") and self._property("ActiveState") != "failed":
            return ""
        code, status = self._property("ExecMainCode"), int(self._property("ExecMainStatus") or 0)
        return how_it_ended(-status if code in ("2", "3") else status)

    def _property(self, name: str) -> str:
        return systemctl("show", "--property", name, "--value", self._name, check=False).strip()


def choose(store: Store, kind: str) -> Service:
    """Return the service of a kind; raise DeviceError if the board cannot run it."""
    return Systemd(store) if kind == SYSTEMD else Supervised(store)


def kind_here() -> str:
    """Return what this board can run: systemd for the user, or only a supervisor."""
    state = systemctl("is-system-running", check=False).strip()
    return SYSTEMD if state in ("running", "degraded", "starting") else SUPERVISED


def healthy(port: int) -> dict[str, Any] | None:
    """Return what /health answers with 200, None if it does not."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        body = json.loads(answer.read(1 << 20))
        return body if answer.status == 200 and isinstance(body, dict) else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def port_is_taken(port: int) -> bool:
    """Say whether somebody listens on a port of this board."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def how_it_ended(code: int) -> str:
    """Return a child's exit status in words."""
    if code >= 0:
        return f"ended with exit status {code}"
    name = _SIGNALS.get(-code) or signal.strsignal(-code) or "unknown"
    return f"died by signal {-code} ({name.lower()})"


def python_command(store: Store, runtime: str) -> list[str]:
    """Return how a runtime is run, so that its folder stays as it was sent."""
    return [sys.executable, "-X", f"pycache_prefix={store.root / 'run' / 'pycache'}", "-sE", str(store.root / "runtimes" / runtime)]


def serve_command(store: Store, deployment: Deployment) -> list[str]:
    """Return the command that serves a deployment."""
    bundle = str(store.root / "releases" / deployment.release)
    return [*python_command(store, deployment.runtime), "serve", "--bundle", bundle, "--port", str(deployment.port)]


def supervise(argv: list[str]) -> int:
    """Serve what is current, again and again: `supervise --root ROOT [--once]`; once: in this very process."""
    parser = argparse.ArgumentParser(prog="supervise")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args(argv)
    store = Store(options.root)
    current = store.current()
    if not current:
        raise DeviceError("nothing_deployed", "there is no release on this board", "push one")
    command = serve_command(store, current)
    if options.once:
        os.execv(command[0], command)  # noqa: S606
    with open(store.root / "run" / "service.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_note(store.root / "run" / "service.json", {"group": os.getpgid(0), "child": None})
        _Supervisor(store, command, lock.fileno()).run()
    return 0


class _Supervisor:
    """Runs a command, and runs it again when it ends, until it is told to stop."""

    def __init__(self, store: Store, command: list[str], lock: int) -> None:
        self._run_folder, self._command, self._lock = store.root / "run", command, lock
        self._log = self._run_folder / "service.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> None:
        """Go on until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        tries = 0
        while not self._stopping:
            began = time.monotonic()
            code = self._serve_once()
            if self._stopping:
                return
            write_note(self._run_folder / "ended.json", {"how": how_it_ended(code)})
            tries = 0 if time.monotonic() - began > STEADY_S else tries + 1
            self._pause(BACK_OFF_S[min(tries, len(BACK_OFF_S) - 1)])

    def _serve_once(self) -> int:
        with open(self._log, "ab") as log:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[self._lock]
            )  # fmt: skip
        write_note(self._run_folder / "service.json", {"group": os.getpgid(0), "child": self._child.pid})
        if self._stopping:
            self._child.terminate()
        while True:
            try:
                return self._child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._bound_log()

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        if self._child:
            self._child.terminate()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.1)

    def _bound_log(self) -> None:
        if self._log.stat().st_size > LOG_LIMIT_BYTES:
            with open(self._log, "rb") as stream:
                stream.seek(-LOG_LIMIT_BYTES // 4, os.SEEK_END)
                tail = stream.read()
            with open(self._log, "r+b") as stream:
                stream.truncate(0)
                stream.write(tail)


def agent() -> str:
    """Return the file or folder that this program was started from."""
    return os.path.abspath(sys.argv[0])


def _lingers() -> bool:
    return os.path.exists(f"/var/lib/systemd/linger/{getpass.getuser()}")


def unit_name(root: Path) -> str:
    """Return the unit's name; a store elsewhere than usual has one of its own."""
    usual = Path.home() / ".local" / "share" / "demitasse"
    if root == usual:
        return "demitasse.service"
    return f"demitasse-{root.as_posix().strip('/').replace('/', '-')}.service"


def systemctl(*words: str, check: bool = True) -> str:
    """Call systemctl for the user; raise DeviceError with what it says if it fails."""
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ}
    command = ["systemctl", "--user", *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        if check:
            raise DeviceError("systemd", f"systemctl --user {words[0]}: {error}") from error
        return ""
    if check and done.returncode != 0:
        raise DeviceError("systemd", f"systemctl --user {words[0]}: {done.stderr.strip()}")
    return done.stdout


def _unit_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
