"""OpenSSH's programs on this computer: their paths and version, keys and signatures.

The only module that calls `sshd`, `ssh-keygen`, `ssh-add` and `ssh -G`. `ssh -G` is the one parser
of ssh's configuration here.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import ConfigError, ToolError

SIGN_S = 120.0
"""Seconds to type a passphrase or to touch a security key."""
RUN_S = 30.0
"""Seconds for anything else; `ssh -G` runs the commands of `Match exec`."""
_CLIENT = ("ssh-keygen", "ssh-add", "ssh")
_PACKAGES = {"sshd": "openssh-server", **dict.fromkeys(_CLIENT, "openssh-client")}
"""program → Debian package."""
_AND_THE_SYSTEMS = b"\nMatch all\nInclude /etc/ssh/ssh_config\n"
"""What OpenSSH reads after the user's file, but not after a file that `-F` names."""
_NO_TTY = "Pseudo-terminal will not be allocated"
_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/libexec")
"""Folders of programs that are often not on a user's PATH."""


def sshd() -> Path:
    """Return the path to the SSH server; raise ToolError if there is none."""
    return _program("sshd")


def ssh_keygen() -> Path:
    """Return the path to the key generator; raise ToolError if there is none."""
    return _program("ssh-keygen")


def ssh() -> Path:
    """Return the path to the client; raise ToolError if there is none."""
    return _program("ssh")


def client_settings(
    host: str, *, user: str = "", port: int = 0, config: Path | None = None
) -> dict[str, list[str]]:
    """Return the settings with which `ssh` would reach a host, by name in lower case.

    `ssh -G` prints them and connects nowhere. `config` is the user's file if it is not the one that
    OpenSSH finds by itself. Raises ToolError if there is no client, ConfigError with what it says
    of a configuration or a name that it does not take.
    """
    words = [*(("-l", user) if user else ()), *(("-p", str(port)) if port else ()), "--", host]
    if config is None:
        done = _run([str(ssh()), "-G", *words])
    else:
        with tempfile.NamedTemporaryFile(prefix="demitasse-ssh-config-") as copy:
            copy.write(config.read_bytes() + _AND_THE_SYSTEMS)
            copy.flush()
            done = _run([str(ssh()), "-G", "-F", copy.name, *words])
            done.stderr = done.stderr.replace(copy.name, str(config))
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip() and _NO_TTY not in line]
        problem = said[0].strip() if said else f"exit status {done.returncode}"
        raise ConfigError(
            f"{host}: ssh cannot say how to get there: {problem[:1].lower()}{problem[1:]}",
            hint=f"`ssh -G {host}` says it too: correct ~/.ssh/config, or the address",
        )

    settings: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        settings.setdefault(name.lower(), []).append(value)

    return settings


def version() -> str:
    """Return the server's version, such as `9.2p1`; raise ToolError if it cannot be read."""
    said = _run([str(sshd()), "-V"]).stderr + _run([str(sshd()), "-?"]).stderr
    if found := re.search(r"OpenSSH_([0-9][^\s,]*)", said):
        return found[1]
    raise ToolError(f"{sshd()}: not an OpenSSH server", hint=_apt("sshd"))


def make_key(path: Path, comment: str) -> None:
    """Make an ed25519 key without a passphrase at `path`, and `.pub`; keep an existing key."""
    if path.is_file():
        return

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        made = _run(
            [str(ssh_keygen()), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)]
        )
        if made.returncode != 0:
            raise ToolError(f"ssh-keygen: {made.stderr.strip()}")
        fresh.with_suffix(".pub").replace(path.with_suffix(".pub"))
        fresh.replace(path)


def public_key(private: Path) -> str:
    """Return a private key file's public half, as in a .pub file.

    Raises ToolError with ssh-keygen's message.
    """
    done = _run([str(ssh_keygen()), "-y", "-f", str(private)])
    if done.returncode != 0:
        raise ToolError(f"{private}: not a private key that can be read: {_last_line(done.stderr)}")
    return done.stdout.strip()


def agent_keys() -> list[str]:
    """Return the public keys that the SSH agent holds, as in .pub files; empty without an agent."""
    done = _run([str(_program("ssh-add")), "-L"])
    return done.stdout.splitlines() if done.returncode == 0 else []


def sign(content: bytes, key: Path, namespace: str) -> str:
    """Return an SSH signature over bytes.

    `key` is a private key, or a public one whose private half the agent holds.
    """
    command = [str(ssh_keygen()), "-Y", "sign", "-n", namespace, "-f", str(key)]
    try:
        done = subprocess.run(
            command, input=content, capture_output=True, timeout=SIGN_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"ssh-keygen: {key.name}: no signature within {SIGN_S:.0f} s") from error

    if done.returncode != 0:
        said = _last_line(done.stderr.decode(errors="replace"))
        raise ToolError(
            f"ssh-keygen: {key.name} cannot sign: {said}",
            hint="is the key in the agent? ssh-add -l lists them",
        )

    return done.stdout.decode("ascii")


def is_signature_of(content: bytes, signature: Path, namespace: str) -> bool:
    """Return whether a signature file signs these bytes, by whatever key."""
    command = [str(ssh_keygen()), "-Y", "check-novalidate", "-n", namespace, "-s", str(signature)]
    return (
        subprocess.run(
            command, input=content, capture_output=True, timeout=30, check=False
        ).returncode
        == 0
    )


def revoked_by(file: Path, public: str) -> str:
    """Return why a binary list of revoked keys refuses a public key; "" if it does not."""
    with tempfile.NamedTemporaryFile("w", prefix="demitasse-", suffix=".pub") as key:
        key.write(public + "\n")
        key.flush()
        done = _run([str(ssh_keygen()), "-Q", "-f", str(file), key.name])
    return "" if done.returncode == 0 else _last_line(done.stderr or "it is in the list")


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]


def check_server(config: Path) -> None:
    """Check a configuration with sshd, without starting it; raise ToolError with its message."""
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
    """Run a program to its end. Its output is bytes: file names in it need not be UTF-8."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=RUN_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        name = Path(command[0]).name
        raise ToolError(
            f"{name}: no end within {RUN_S:.0f} s",
            hint="does a `Match exec` of ~/.ssh/config wait for something?"
            if name == "ssh"
            else "",
        ) from error
