"""Trusted host keys: OpenSSH's known_hosts files, read whole, and written only by `pin`."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from toolchain.errors import BoardError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHosts:
    """Trusted keys by host, and revoked keys."""

    keys: paramiko.HostKeys
    revoked: frozenset[bytes]

    def knows(self, name: str) -> bool:
        """Return whether any key is known under a name."""
        return self.keys.lookup(name) is not None

    def trusts(self, name: str, key: paramiko.PKey) -> bool:
        """Return whether this very key is known under a name and not revoked."""
        return self.keys.check(name, key) and key.asbytes() not in self.revoked


def host_name(host: str, port: int) -> str:
    """Return a host as known_hosts spells it: `[host]:port` where the port is not 22."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def read(files: Iterable[Path]) -> KnownHosts:
    """Read known_hosts files; like OpenSSH, pass over lines that cannot be parsed."""
    keys = paramiko.HostKeys()
    revoked = set()
    for line in (line for file in files if file.is_file() for line in _lines(file)):
        marker, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
        if marker in ("", "@revoked") and (entry := _entry(rest.strip())):
            if marker:
                revoked.add(entry.key.asbytes())
            else:
                _add(keys, entry)

    return KnownHosts(keys=keys, revoked=frozenset(revoked))


def pin(file: Path, name: str, key: paramiko.PKey) -> None:
    """Add one key to a known_hosts file."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as stream:
            line = f"{name} {key.get_name()} {key.get_base64()}\n".encode()
            unfinished = not stream.read().endswith(b"\n") and stream.tell()
            stream.write(b"\n" + line if unfinished else line)
    except OSError as error:
        raise BoardError(f"{file}: the host key cannot be kept: {error.strerror}") from error


def _lines(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _entry(line: str) -> HostKeyEntry | None:
    try:
        return HostKeyEntry.from_line(" ".join(line.split()))
    except (InvalidHostKey, paramiko.SSHException):
        return None


def _add(keys: paramiko.HostKeys, entry: HostKeyEntry) -> None:
    for name in entry.hostnames:
        keys.add(name, entry.key.get_name(), entry.key)
