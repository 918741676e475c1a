"""Trusted host keys: OpenSSH's known_hosts files, read whole, and written only by `pin`.

Lines mean what they mean there: lists of names, patterns with `*`, `?` and `!`, hashed names, and
the marks `@revoked` and `@cert-authority`. Keys are compared byte by byte and never parsed, so that
a damaged line, or a kind of key that nobody here knows, is no trouble for any board.
"""

import base64
import hashlib
import hmac
import os
import re
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import paramiko

from toolchain.board import host_certificates
from toolchain.board.ssh_agent import take_string
from toolchain.errors import BoardError

_AUTHORITY, _REVOKED = "@cert-authority", "@revoked"
_HASHED = "|1|"
MAX_BYTES = 64 << 20
"""Limit of what is read of a file; a line of OpenSSH's takes at most 2 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a known_hosts file."""

    mark: str
    """`@revoked`, `@cert-authority`, or empty."""
    names: str
    """Names and patterns, separated by commas; or one hashed name."""
    key: bytes
    """The public key as SSH writes it."""

    def is_for(self, name: str) -> bool:
        """Return whether a name matches: one pattern at least, and none with a `!` before it."""
        if self.names.startswith(_HASHED):
            return _is_hash_of(self.names, name)

        patterns = self.names.lower().split(",")
        refused = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
        allowed = [pattern for pattern in patterns if not pattern.startswith("!")]
        return _matches(allowed, name) and not _matches(refused, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHosts:
    """Trusted keys and authorities by host, and revoked keys."""

    lines: tuple[Line, ...]

    def with_lines(self, texts: Iterable[str]) -> "KnownHosts":
        """Return the same with further lines of a known_hosts file."""
        found = [line for text in texts if (line := _line(text))]
        return KnownHosts(lines=(*self.lines, *found))

    def knows(self, name: str) -> bool:
        """Return whether any key is known under a name."""
        return bool(self._keys(name))

    def trusts(self, name: str, key: paramiko.PKey) -> bool:
        """Return whether this very key, or its certificate, is good for a name."""
        if self.revokes(key):
            return False
        return key.asbytes() in self._of(name, "") or self.distrust(name, key) == ""

    def distrust(self, name: str, key: paramiko.PKey) -> str | None:
        """Return why a key's certificate is no good for a name; "" for a good one, None for none.

        A certificate of an authority that is not known for the name counts as none.
        """
        authorities = self.authorities(name)
        if not authorities or not (shown := host_certificates.shown_by(key)):
            return None
        return host_certificates.problem(shown, authorities, _without_port(name))

    def revokes(self, key: paramiko.PKey) -> bool:
        """Return whether a key, or the authority of its certificate, is revoked."""
        revoked = {line.key for line in self.lines if line.mark == _REVOKED}
        shown = host_certificates.shown_by(key)
        return key.asbytes() in revoked or bool(shown and shown.authority in revoked)

    def authorities(self, name: str) -> frozenset[bytes]:
        """Return the keys that may sign certificates for a name."""
        return self._of(name, _AUTHORITY)

    def kinds(self, name: str) -> frozenset[str]:
        """Return the kinds of keys that are known under a name."""
        return frozenset(_kind(key) for key in self._of(name, ""))

    def _keys(self, name: str, mark: str = "") -> frozenset[bytes]:
        return frozenset(line.key for line in self.lines if line.mark == mark and line.is_for(name))

    def _of(self, name: str, mark: str) -> frozenset[bytes]:
        """Return the keys of a name; where there is none for its port, those without a port.

        OpenSSH's client does the same (check_host_key in sshconnect.c).
        """
        return self._keys(name, mark) or self._keys(_without_port(name), mark)


def host_name(host: str, port: int) -> str:
    """Return a host as known_hosts spells it: `[host]:port` where the port is not 22."""
    return host.lower() if port == 22 else f"[{host.lower()}]:{port}"


def _without_port(name: str) -> str:
    found = re.fullmatch(r"\[(.*)\]:\d+", name)
    return found[1] if found else name


def read(files: Iterable[Path]) -> KnownHosts:
    """Read known_hosts files; like OpenSSH, pass over files and lines that cannot be read."""
    found = (_line(text) for file in files for text in _texts(file))
    return KnownHosts(lines=tuple(line for line in found if line))


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


def _texts(file: Path) -> list[str]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return []
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES)
    except OSError:
        return []

    # Bytes, because `str.splitlines` ends lines at more characters than OpenSSH does.
    return [line.decode(errors="replace") for line in content.split(b"\n")]


def _line(text: str) -> Line | None:
    words = text.split()
    mark = words.pop(0) if words and words[0].startswith("@") else ""
    if mark not in ("", _AUTHORITY, _REVOKED) or len(words) < 3 or words[0].startswith("#"):
        return None

    names, kind, key = words[:3]
    try:
        line = Line(mark=mark, names=names, key=base64.b64decode(key, validate=True))
        return line if _kind(line.key) == kind else None
    except (ValueError, struct.error):
        return None


def _kind(key: bytes) -> str:
    return take_string(key)[0].decode("ascii")


def _matches(patterns: Iterable[str], name: str) -> bool:
    # Brackets stand for themselves in OpenSSH's patterns.
    return any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def _is_hash_of(names: str, name: str) -> bool:
    salt, _, expected = names.removeprefix(_HASHED).partition("|")
    try:
        digest = hmac.digest(base64.b64decode(salt, validate=True), name.encode(), hashlib.sha1)
        return hmac.compare_digest(digest, base64.b64decode(expected, validate=True))
    except ValueError:
        return False
