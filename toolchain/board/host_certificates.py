"""Certificates of host keys: what an authority says of a board, checked as OpenSSH does.

A server shows its host key alone or in a certificate. paramiko checks that the server holds the
key; who signed the certificate, and for whom, is checked here. Format: OpenSSH's PROTOCOL.certkeys.
"""

import struct
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import paramiko

from toolchain.board.ssh_agent import take_string

SUFFIX = "-cert-v01@openssh.com"
_KEY_PARTS = {"ssh-ed25519": 1, "ssh-rsa": 2, "ecdsa-sha2": 2}
"""Kind of key → strings of its public half."""
_FOR_HOSTS = 2
"""Type of a certificate for a host; one for a user is 1."""
_KINDS: dict[str, Callable[..., paramiko.PKey]] = {
    "ssh-ed25519": paramiko.Ed25519Key,
    "ssh-rsa": paramiko.RSAKey,
    "ecdsa-sha2-nistp256": paramiko.ECDSAKey,
    "ecdsa-sha2-nistp384": paramiko.ECDSAKey,
    "ecdsa-sha2-nistp521": paramiko.ECDSAKey,
}
"""Kind of an authority's key → its class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate of a host key; nothing in it is true before its signature is checked."""

    type: int
    names: tuple[str, ...]
    """Hosts for which it is good; empty for all that the authority may sign for."""
    begins: int
    ends: int
    """Seconds since 1970."""
    critical: bytes
    """Options that a client must know; there is none for hosts."""
    authority: bytes
    """Public key of the authority."""
    signed: bytes
    """Bytes that the signature is of."""
    signature: bytes


def shown_by(key: paramiko.PKey) -> Certificate | None:
    """Return the certificate in which a server showed its host key; None for a plain key."""
    public = key.public_blob
    if public is None or not public.key_type.endswith(SUFFIX):
        return None

    try:
        return _parsed(public.key_blob)
    except (ValueError, struct.error):
        return None


def problem(shown: Certificate, authorities: Collection[bytes], host: str) -> str | None:
    """Return why a certificate is no good for a host; "" for a good one.

    None if none of these authorities signed it.
    """
    if shown.authority not in authorities:
        return None
    if not _is_signed(shown):
        return "the authority did not sign it"
    if shown.type != _FOR_HOSTS:
        return "it is for users, not for hosts"
    if shown.critical:
        return "it has an option that is not known here"

    now = time.time()
    if now < shown.begins:
        return f"it begins at {_date(shown.begins)}"
    if now >= shown.ends:
        return f"it ended at {_date(shown.ends)}"
    if shown.names and host not in shown.names:
        return f"it is for `{', '.join(shown.names)}`, not for `{host}`"
    return ""


def _parsed(blob: bytes) -> Certificate:
    kind, rest = take_string(blob)
    plain = kind.decode("ascii").removesuffix(SUFFIX).partition("-nistp")[0]
    for _ in range(1 + _KEY_PARTS.get(plain, 0)):  # a nonce, then the key
        _, rest = take_string(rest)

    _serial, kind_of_holder = struct.unpack_from(">QI", rest)
    _identity, rest = take_string(rest[12:])
    names, rest = take_string(rest)
    begins, ends = struct.unpack_from(">QQ", rest)
    critical, rest = take_string(rest[16:])
    for _ in range(2):  # extensions, and a string that is reserved
        _, rest = take_string(rest)

    authority, rest = take_string(rest)
    signature, left = take_string(rest)
    # paramiko reads a signature whose lengths are wrong: they are read here first.
    _algorithm, inner = take_string(signature)
    if left or take_string(inner)[1]:
        raise ValueError("bytes after the signature")

    return Certificate(
        type=kind_of_holder,
        names=_strings(names),
        begins=begins,
        ends=ends,
        critical=critical,
        authority=authority,
        signed=blob[: len(blob) - len(rest)],
        signature=signature,
    )


def _strings(packed: bytes) -> tuple[str, ...]:
    found = []
    while packed:
        name, packed = take_string(packed)
        found.append(name.decode())
    return tuple(found)


def _is_signed(shown: Certificate) -> bool:
    kind = take_string(shown.authority)[0].decode("ascii", "replace")
    if kind not in _KINDS:
        return False

    try:
        authority = _KINDS[kind](data=shown.authority)
        return bool(authority.verify_ssh_sig(shown.signed, paramiko.Message(shown.signature)))
    except (paramiko.SSHException, ValueError, TypeError, struct.error):
        return False


def _date(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"
