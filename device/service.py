"""The service of a store: a systemd user unit, or a supervisor process if there is no systemd.

Both run `AGENT supervise` (device/supervisor.py), which reads what is current when it starts. So a
switch needs only a restart. While another process holds the pause a supervisor waits. It continues
when that process ends, however it ends.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from device import disk
from device.child import UNCOMPILED
from device.disk import make_folder, read_json, remove, write_whole
from device.errors import DeviceError
from device.manifest.reading import parse_json
from device.processes import (
    NOTE,
    end_supervisor,
    last_end,
    serving_process,
    supervisor_group,
    supervisor_lives,
)
from device.store import RELEASES, RUNTIMES, SERVICES, Deployment, Store

SYSTEMD, SUPERVISED = SERVICES
OWN_LOG = "supervisor.log"
HEALTH_S = 5.0
"""Seconds for an answer of /health; a busy board may need more, and is asked again."""
START_S = 60.0
"""Seconds for a supervisor to end another and to note itself."""
# On a disk that takes no byte it runs without a note.
_UNIT = """\
[Unit]
Description=demitasse: a language model on this board
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=always
RestartSec=5
OOMPolicy=continue

[Install]
WantedBy=default.target
"""


class Service(Protocol):
    """The process or unit that keeps the current release running."""

    kind: str
    survives_reboot: bool
    hint: str
    """What makes it survive a reboot; empty if it does."""

    def start(self) -> None:
        """Start what is current."""

    def stop(self) -> None:
        """Stop it, and do not start it again."""

    def pid(self) -> int | None:
        """Return the process that serves; None if there is none."""

    def failure(self) -> str:
        """Return how the process ended since the last start; empty if it did not."""

    def lives(self) -> bool:
        """Say whether something keeps it running, or is about to start it."""


class Supervised:
    """A supervisor process of our own: it lives until the board goes off."""

    kind = SUPERVISED
    survives_reboot = False
    hint = "the service ends when the board goes off: systemd with lingering would start it again"

    def __init__(self, store: Store) -> None:
        self._root = store.root
        self._run = store.root / "run"

    def start(self, *words: str) -> None:
        """Start a supervisor that survives this session.

        It ends the running one, so this process may die in between.
        """
        with disk.open_log(self._run / OWN_LOG) as log:
            command = [sys.executable, "-sE", agent(), "supervise", "--root", str(self._root)]
            command += words
            supervisor = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

        deadline = time.monotonic() + START_S
        while supervisor_group(self._run) != supervisor.pid and time.monotonic() < deadline:
            if supervisor.poll() is not None:
                raise DeviceError(
                    "unhealthy",
                    "the supervisor ended at once",
                    f"its log: {self._run / OWN_LOG}",
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the supervisor and its child."""
        end_supervisor(self._run)

    def pid(self) -> "int | None":
        """Return the serving process."""
        return serving_process(self._run)

    def failure(self) -> str:
        """Return how the serving process last ended."""
        return last_end(self._run)

    def lives(self) -> bool:
        """Say whether the supervisor runs."""
        return supervisor_lives(self._run)


class Systemd:
    """A systemd unit of the board's user, which runs a supervisor at every boot."""

    kind = SYSTEMD

    def __init__(self, store: Store) -> None:
        self._root = store.root
        self._run = store.root / "run"
        self._name = unit_name(store.root)
        self.survives_reboot = _lingers()
        self.hint = "" if self.survives_reboot else f"sudo loginctl enable-linger {_user_name()}"

    def start(self) -> None:
        """Write the unit and restart it, now and at boot."""
        folder = Path.home() / ".config" / "systemd" / "user"
        make_folder(folder)
        command = " ".join(
            map(
                _unit_word, [sys.executable, "-sE", agent(), "supervise", "--root", str(self._root)]
            )
        )
        write_whole(folder / self._name, _UNIT.format(command=command).encode())
        systemctl("daemon-reload")
        systemctl("reset-failed", self._name, check=False)
        systemctl("enable", self._name)
        remove(self._run / "ended.json")
        systemctl("restart", self._name)
        subprocess.run(
            ["loginctl", "enable-linger"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        self.survives_reboot = _lingers()

    def stop(self) -> None:
        """Stop the unit, now and at boot."""
        systemctl("disable", "--now", self._name, check=False)

    def pid(self) -> "int | None":
        """Return the serving process."""
        return serving_process(self._run)

    def failure(self) -> str:
        """Return how the serving process last ended."""
        return last_end(self._run)

    def lives(self) -> bool:
        """Say whether systemd runs the unit, or has it in its queue."""
        return systemctl("is-active", self._name, check=False).strip() in ("active", "activating")


def revive(store: Store, current: Deployment) -> str:
    """Start a supervisor again that was killed or lost power; return in words what happened.

    Empty if the supervisor lives. A child that it left is not ended: the new supervisor waits for
    it.
    """
    run = store.root / "run"
    if current.service != SUPERVISED or store.is_stopped or not read_json(run / NOTE):
        return ""
    if supervisor_lives(run) and supervisor_group(run):
        return ""

    try:
        with store.locked(wait_s=0):
            disk.write_note(run / NOTE, read_json(run / NOTE) or {})
            Supervised(store).start("--after")
    except (
        OSError
    ) as error:  # a supervisor that cannot note itself would be started again and again
        return f"lost its supervisor, and none can be started: {error.strerror}"
    except DeviceError as error:
        return "" if error.code == "busy" else f"has no supervisor: {error.message}"

    return "lost its supervisor, which was killed; another one takes over"


def choose(store: Store, kind: str) -> Service:
    """Return the service of a kind; raise DeviceError if the board cannot run it."""
    return Systemd(store) if kind == SYSTEMD else Supervised(store)


def kind_here() -> str:
    """Return the kind of service that this board can run: systemd for the user, or a supervisor."""
    state = systemctl("is-system-running", check=False).strip()
    return SYSTEMD if state in ("running", "degraded", "starting") else SUPERVISED


def healthy(port: int) -> dict[str, Any] | None:
    """Return the body of /health; None unless it is answered with 200."""
    from http.client import HTTPConnection, HTTPException  # here: it loads email and ssl

    connection = HTTPConnection("127.0.0.1", port, timeout=HEALTH_S)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        body = parse_json(answer.read(1 << 20))
        return body if answer.status == 200 and isinstance(body, dict) else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()


def port_is_taken(port: int) -> bool:
    """Say whether a program listens on a port of this board."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def python_command(store: Store, runtime: str) -> list[str]:
    """Return the command of a runtime: it runs signed sources and writes no file there."""
    return [sys.executable, *UNCOMPILED, "-sE", str(store.folder(RUNTIMES, runtime))]


def serve_command(store: Store, deployment: Deployment) -> list[str]:
    """Return the command that serves a deployment."""
    bundle = str(store.folder(RELEASES, deployment.release))
    return [
        *python_command(store, deployment.runtime),
        "serve",
        "--bundle",
        bundle,
        "--port",
        str(deployment.port),
        *(word for name in deployment.host_names for word in ("--host-name", name)),
        *(word for origin in deployment.cors_origins for word in ("--cors-origin", origin)),
    ]


def agent() -> str:
    """Return the path of the agent file or folder that this program was started from."""
    return os.path.abspath(sys.argv[0])


def _lingers() -> bool:
    return os.path.exists(f"/var/lib/systemd/linger/{_user_name()}")


def _user_name() -> str:
    from device.facts import user_name  # here: a service starts without the facts' modules

    return user_name()


def unit_name(root: Path) -> str:
    """Return the unit's name; a store in an unusual place has a name of its own."""
    usual = Path.home() / ".local" / "share" / "demitasse"
    if root == usual:
        return "demitasse.service"
    return f"demitasse-{root.as_posix().strip('/').replace('/', '-')}.service"


def systemctl(*words: str, check: bool = True) -> str:
    """Call systemctl for the user and return its output; raise DeviceError if it fails."""
    environment = {"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ}
    command = ["systemctl", "--user", *words]

    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
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
