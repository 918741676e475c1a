"""Lists of revoked host keys (RevokedHostKeys of ssh_config), in OpenSSH's text and binary form.

Like OpenSSH, a list that cannot be read refuses every key.
"""

import base64
from pathlib import Path

import paramiko

from toolchain.board import host_certificates
from toolchain.tools import openssh

_BINARY = b"SSHKRL\n\0"
"""What OpenSSH's binary form begins with (PROTOCOL.krl)."""


def problem(file: Path, key: paramiko.PKey) -> str:
    """Return why a list refuses a host key or the certificate that it came in; "" if not."""
    try:
        content = file.read_bytes() if file.is_file() else None
    except OSError:
        content = None
    if content is None:
        return "the list cannot be read"

    if content.startswith(_BINARY):
        answers = (openssh.revoked_by(file, public) for public in _shown(key))
        return next((answer for answer in answers if answer), "")

    certificate = host_certificates.shown_by(key)
    refused = {key.asbytes(), *((certificate.authority,) if certificate else ())}
    listed = {word for line in content.splitlines() for word in line.split()[:3]}
    is_listed = any(base64.b64encode(blob) in listed for blob in refused)
    return "it is in the list" if is_listed else ""


def _shown(key: paramiko.PKey) -> list[str]:
    """Return a host key, and its certificate if it came in one, as lines of .pub files."""
    plain = f"{key.get_name()} {key.get_base64()}"
    public = key.public_blob
    if public is None:
        return [plain]
    return [plain, f"{public.key_type} {base64.b64encode(public.key_blob).decode()}"]
