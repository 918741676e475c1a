"""OpenSSH's programs on this computer: where they are, which version, and the keys that they make.

The only module that calls `sshd` and `ssh-keygen`.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import ToolError

_PACKAGES = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "ssh": "openssh-client"}
"""program → Debian package."""
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")
"""Where programs hide from a user's PATH."""


def sshd() -> Path:
    """Return the SSH server; raise ToolError if there is none."""
    return _program("sshd")


def ssh_keygen() -> Path:
    """Return the key generator; raise ToolError if there is none."""
    return _program("ssh-keygen")


def ssh() -> Path:
    """Return the client; raise ToolError if there is none."""
    return _program("ssh")


def version() -> str:
    """Return the server's version, such as `9.2p1`; raise ToolError if it cannot be read."""
    said = _run([str(sshd()), "-V"]).stderr + _run([str(sshd()), "-?"]).stderr
    if found := re.search(r"OpenSSH_([0-9][^\s,]*)", said):
        return found[1]
    raise ToolError(f"{sshd()}: not an OpenSSH server", hint=_apt("sshd"))


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key without a passphrase at `path`, with `.pub` beside it; leave one that is there alone."""
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        made = _run([str(ssh_keygen()), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)])
        if made.returncode != 0:
            raise ToolError(f"ssh-keygen: {made.stderr.strip()}")
        fresh.with_suffix(".pub").replace(path.with_suffix(".pub"))
        fresh.replace(path)


def check_server(config: Path) -> None:
    """Let sshd read a configuration without starting; raise ToolError with what it says."""
    checked = _run([str(sshd()), "-t", "-f", str(config)])
    if checked.returncode != 0:
        raise ToolError(f"sshd: {checked.stderr.strip()}")


def _program(name: str) -> Path:
    found = shutil.which(name) or shutil.which(name, path=":".join(_FOLDERS))
    if not found:
        raise ToolError(f"`{name}` is not installed", hint=_apt(name))
    return Path(found)


def _apt(name: str) -> str:
    return f"sudo apt-get install --no-install-recommends {_PACKAGES[name]}"


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
