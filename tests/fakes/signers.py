"""People who sign: real OpenSSH keys, a security key in software, and an agent that holds it.

Formats: OpenSSH's PROTOCOL.agent, PROTOCOL.u2f and PROTOCOL.sshsig.
"""

import base64
import contextlib
import hashlib
import socketserver
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECURITY_KEY_KIND = b"sk-ssh-ed25519@openssh.com"
USER_PRESENT = b"\1"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----\n", "\n-----END SSH SIGNATURE-----\n"


def make_key(file: Path, *words: str) -> Path:
    """Make a key pair without a passphrase; `words` such as `-t ecdsa -b 384`, else ed25519."""
    command = [
        "ssh-keygen",
        "-q",
        *(words or ("-t", "ed25519")),
        "-N",
        "",
        "-C",
        file.name,
        "-f",
        str(file),
    ]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return file


def public(key: Path) -> str:
    """Return a key's line in its .pub file."""
    return key.with_name(key.name + ".pub").read_text().strip()


def sign(content: bytes, key: Path, namespace: str) -> bytes:
    """Return an SSH signature."""
    command = ["ssh-keygen", "-Y", "sign", "-n", namespace, "-f", str(key)]
    return subprocess.run(command, input=content, capture_output=True, check=True).stdout


def unwrapped(signature: bytes) -> bytes:
    """Return what is inside of a signature file."""
    return base64.b64decode("".join(signature.decode().splitlines()[1:-1]))


def wrapped(blob: bytes) -> bytes:
    """Return a signature file around a blob."""
    text = base64.b64encode(blob).decode()
    return (
        _BEGIN + "\n".join(text[start : start + 70] for start in range(0, len(text), 70)) + _END
    ).encode()


def string(content: bytes) -> bytes:
    """Return bytes behind their length, as SSH writes them."""
    return struct.pack(">I", len(content)) + content


class SecurityKey:
    """A FIDO key (sk-ssh-ed25519) that is always touched at once."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        self._count = 0
        raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = string(SECURITY_KEY_KIND) + string(raw) + string(b"ssh:")
        self.public = (
            f"{SECURITY_KEY_KIND.decode()} {base64.b64encode(self.blob).decode()} in software"
        )

    def signature(self, content: bytes) -> bytes:
        """Sign as the key would: over application, user presence, a counter and the content."""
        self._count += 1
        said = USER_PRESENT + struct.pack(">I", self._count)
        signed = hashlib.sha256(b"ssh:").digest() + said + hashlib.sha256(content).digest()
        return string(SECURITY_KEY_KIND) + string(self._private.sign(signed)) + said


@contextlib.contextmanager
def agent(socket: Path, key: SecurityKey) -> Iterator[None]:
    """Run an SSH agent that holds one security key."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.read(4):
                request = self.rfile.read(int.from_bytes(head, "big"))
                self.wfile.write(string(_agents_answer(key, request)))

    with socketserver.ThreadingUnixStreamServer(str(socket), Session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _agents_answer(key: SecurityKey, request: bytes) -> bytes:
    if request[:1] == b"\x0b":  # which identities?
        return b"\x0c" + struct.pack(">I", 1) + string(key.blob) + string(b"in software")
    if request[:1] == b"\x0d":  # sign
        start = 1 + 4 + len(key.blob)
        size = int.from_bytes(request[start : start + 4], "big")
        return b"\x0e" + string(key.signature(request[start + 4 : start + 4 + size]))
    return b"\x05"
