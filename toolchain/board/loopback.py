"""This computer as a board: an OpenSSH server of its own on a loopback port, as the calling user, for as long as it is needed."""

import contextlib
import getpass
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from toolchain.board import ssh
from toolchain.board.route import Route
from toolchain.errors import BoardError
from toolchain.tools import openssh

ADDRESS = "local"
START_S = 10.0
_PRIVILEGE_SEPARATION = Path("/run/sshd")
"""OpenSSH started by root insists on this empty folder; service files make it, we may have to."""
_UNTIL_INPUT_ENDS = '"$@" & trap "kill $!; wait" EXIT; cat >/dev/null'
"""Runs a program until our end of the pipe is gone, however we end."""
_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
AllowUsers {user}
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
LogLevel ERROR
Subsystem sftp internal-sftp
"""


@contextlib.contextmanager
def connect() -> Iterator[ssh.SshConnection]:
    """Start a server, connect to it, and stop it afterwards."""
    with server() as way:
        connection = ssh.dial(way)
        try:
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def server() -> Iterator[Route]:
    """Start a server of the calling user's own and yield the way to it; it ends with this block or this process."""
    keys = _keys()
    with tempfile.TemporaryDirectory(prefix="demitasse-sshd-") as folder:
        port = _free_port()
        known, config = Path(folder) / "known_hosts", Path(folder) / "sshd_config"
        config.write_text(
            _CONFIG.format(port=port, keys=keys, user=getpass.getuser()), encoding="utf-8"
        )
        host_key = (keys / "host.pub").read_text(encoding="utf-8")
        known.write_text(f"[127.0.0.1]:{port} {host_key}", encoding="utf-8")
        with _running(config, port):
            yield Route(
                address=ADDRESS,
                host="127.0.0.1",
                port=port,
                user=getpass.getuser(),
                known_as=f"[127.0.0.1]:{port}",
                known_hosts=(known,),
                identities=(str(keys / "user"),),
                only_identities=True,
            )


@contextlib.contextmanager
def _running(config: Path, port: int) -> Iterator[None]:
    if os.geteuid() == 0:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
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


def _keys() -> Path:
    folder = Path(platformdirs.user_cache_dir("demitasse")) / "loopback"
    openssh.make_key(folder / "host", "demitasse loopback host")
    openssh.make_key(folder / "user", "demitasse loopback user")
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
