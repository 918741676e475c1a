"""This computer as a board: an OpenSSH server on a loopback port, run by the calling user.

The server lives as long as it is needed. Its keys and files are in a temporary folder of its own,
so that neither name nor state of the user's home matters. Commands run with the caller's HOME: two
homes are two stores.
"""

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from toolchain.board import ssh
from toolchain.board.kind import LOCAL as ADDRESS
from toolchain.board.route import Route
from toolchain.errors import BoardError
from toolchain.tools import openssh

START_S = 10.0
_PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Empty folder that OpenSSH insists on when root starts it; without a service file we make it."""
_UNTIL_INPUT_ENDS = '"$@" & trap "kill $!; wait" EXIT; cat >/dev/null'
"""Runs a program until our end of the pipe is gone, however we end."""
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
AllowUsers "{user}"
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
UseDNS no
PermitUserRC no
AllowTcpForwarding local
AllowAgentForwarding no
X11Forwarding no
PrintMotd no
LogLevel INFO
Subsystem sftp internal-sftp
"""


@contextlib.contextmanager
def connect() -> Iterator[ssh.SshConnection]:
    """Start a server, connect to it, and stop it afterwards."""
    with server() as way:
        try:
            connection = ssh.dial(way, {"HOME": str(Path.home())})
        except BoardError as error:
            raise _refused(way, error) from error
        try:
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def server() -> Iterator[Route]:
    """Start a server of the calling user and yield the route to it.

    It ends with this block or with this process.
    """
    user = _user()
    with _own_folder() as folder:
        port = _free_port()
        for key in ("host", "user"):
            openssh.make_key(folder / key, f"demitasse loopback {key}")
        known, config = folder / "known_hosts", folder / "sshd_config"
        config.write_text(_CONFIG.format(port=port, folder=folder, user=user), encoding="utf-8")
        host_key = (folder / "host.pub").read_text(encoding="utf-8")
        known.write_text(f"[127.0.0.1]:{port} {host_key}", encoding="utf-8")
        with _running(config, port):
            yield Route(
                address=ADDRESS,
                host="127.0.0.1",
                port=port,
                user=user,
                known_as=f"[127.0.0.1]:{port}",
                known_hosts=(known,),
                identities=(str(folder / "user"),),
                only_identities=True,
            )


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """Yield a temporary folder, which is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="demitasse-sshd-", dir=_plain_folder()))
    try:
        yield folder
    finally:
        # A session's own process may outlive the server for a moment, and write into the log.
        deadline = time.monotonic() + START_S
        while folder.exists() and time.monotonic() < deadline:
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.02 * folder.exists())


def _user() -> str:
    """Return the calling user's name by the kernel's user id, not by the environment."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError as error:
        raise BoardError(
            f"{ADDRESS}: user {os.geteuid()} has no name on this computer, "
            "and sshd lets nobody in without one",
            hint="add a line for it to /etc/passwd",
        ) from error


def _plain_folder() -> str:
    """Return a folder for temporary files whose name needs no quoting.

    sshd's configuration has no way to quote every name.
    """
    usual = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - a folder of mode 0700 is made in it
    for folder in (tempfile.gettempdir(), *usual):
        if re.fullmatch(r"[\w./-]+", folder, re.ASCII) and os.access(folder, os.W_OK | os.X_OK):
            return folder

    raise BoardError(
        f"{ADDRESS}: there is no folder for temporary files that sshd can use",
        hint="make /tmp writable",
    )


def _refused(way: Route, error: BoardError) -> BoardError:
    """Return the error of our own server that refuses us, with the reason from its log."""
    log = way.known_hosts[0].with_name("log")
    said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    reasons = [line for line in said.splitlines() if "not allowed" in line or "error" in line]
    if not reasons:
        return error

    return BoardError(
        f"{ADDRESS}: this computer's sshd lets `{way.user}` not in: {reasons[-1].strip()}",
        hint="unlock the account, or give it a login shell: `sshd` looks at both",
    )


@contextlib.contextmanager
def _running(config: Path, port: int) -> Iterator[None]:
    if os.geteuid() == 0:
        _make_privilege_separation()

    openssh.check_server(config)
    log = config.with_name("log")
    command = [str(openssh.sshd()), "-D", "-E", str(log), "-f", str(config)]
    guard = subprocess.Popen(
        ["sh", "-c", _UNTIL_INPUT_ENDS, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert guard.stdin

    try:
        _wait_for(port, log)
        yield
    finally:
        guard.stdin.close()
        guard.wait()


def _make_privilege_separation() -> None:
    try:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise BoardError(
            f"{ADDRESS}: sshd needs the folder {_PRIVILEGE_SEPARATION}: {error.strerror}",
            hint=f"make it: mkdir -m 755 {_PRIVILEGE_SEPARATION}",
        ) from error


def _wait_for(port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), timeout=1.0),
        ):
            return
        time.sleep(0.02)

    said = log.read_text(encoding="utf-8", errors="replace").strip() if log.is_file() else ""
    raise BoardError(f"{ADDRESS}: sshd did not start on port {port}: {said or 'it said nothing'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
