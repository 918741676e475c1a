"""SSH signatures: the claims of one, read within bounds (the format is OpenSSH's PROTOCOL.sshsig).

Whether a claim is true, only `ssh-keygen -Y verify` decides (device/trust.py). Here the signature
is parsed, so that each attack gets an error code of its own. Standard library only, Python 3.10 up.
"""

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass

from device.manifest import BUNDLE_MANIFEST, RUNTIME_MANIFEST, ManifestError

SUFFIX = ".sig"
"""Suffix of the signature file beside a manifest."""
NAMESPACES = {BUNDLE_MANIFEST: "demitasse-bundle", RUNTIME_MANIFEST: "demitasse-runtime"}
"""Manifest → purpose of its signature."""
# A signature for a runtime is not one for a bundle, and one for a git commit is neither.
MAX_SIGNATURE_BYTES = 8 << 10
KEY_KINDS = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
"""Kinds of keys that may sign."""
# Not RSA: its strength depends on the key's length, which OpenSSH's verifier does not check.
_HASHES = ("sha256", "sha512")
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----\n", "\n-----END SSH SIGNATURE-----\n"
_LINES = re.compile(r"(?:[A-Za-z0-9+/]{1,76}\n)*[A-Za-z0-9+/]{1,76}={0,2}")


@dataclass(frozen=True)
class Signature:
    """The claims of a signature."""

    key: bytes
    """The public key in SSH's wire format."""
    namespace: str

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the key, as ssh-keygen prints it."""
        return fingerprint(self.key)


def read_signature(content: bytes) -> Signature:
    """Parse a signature file; raise ManifestError with the code of the fault."""
    if len(content) > MAX_SIGNATURE_BYTES:
        raise ManifestError(
            "signature_too_large", f"the signature is larger than {MAX_SIGNATURE_BYTES >> 10} KiB"
        )

    blob = _unwrapped(content)
    if blob[:6] != b"SSHSIG":
        raise ManifestError("signature_garbage", "the signature is not an SSH signature")
    if blob[6:10] != b"\0\0\0\1":
        raise ManifestError(
            "signature_version",
            f"the signature is of version {int.from_bytes(blob[6:10], 'big')}, not 1",
        )

    key, namespace, _, method, _ = _strings(blob[10:], 5)
    if key_kind(key) not in KEY_KINDS:
        raise ManifestError("weak_key", f"a key of kind `{key_kind(key)}` may not sign")
    if method.decode("ascii", "replace") not in _HASHES:
        raise ManifestError("weak_hash", f"the signature is over a hash of kind {method[:20]!r}")

    return Signature(key=key, namespace=namespace.decode("utf-8", "replace"))


def key_kind(key: bytes) -> str:
    """Return the kind of a public key, such as `ssh-ed25519`.

    Raise ManifestError if it is not a key.
    """
    length = int.from_bytes(key[:4], "big")
    if not 4 <= length <= 64 or len(key) < 4 + length:
        raise ManifestError("bad_key", "not a public key")
    return key[4 : 4 + length].decode("ascii", "replace")


def read_key(kind: str, text: str) -> bytes:
    """Return a public key from the first two words of its line.

    Raise ManifestError `bad_key` or `weak_key`.
    """
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ManifestError("bad_key", "not a public key") from error

    if key_kind(key) != kind:
        raise ManifestError(
            "bad_key", f"a public key of kind `{key_kind(key)}` is called `{kind[:40]}`"
        )
    if kind not in KEY_KINDS:
        raise ManifestError("weak_key", f"a key of kind `{kind}` may not sign")

    return key


def fingerprint(key: bytes) -> str:
    """Return a public key's fingerprint, as ssh-keygen prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def _unwrapped(content: bytes) -> bytes:
    text = content.decode("ascii", "replace")
    if not text.startswith(_BEGIN):
        cut = _BEGIN.startswith(text)
        raise ManifestError(
            "signature_truncated" if cut else "signature_garbage",
            "the signature does not begin as one",
        )

    body, end, rest = text[len(_BEGIN) :].partition(_END)
    if not end:
        raise ManifestError("signature_truncated", "the signature ends too early")
    if rest:
        raise ManifestError("signature_trailing", "something follows the signature")
    if not _LINES.fullmatch(body):
        raise ManifestError("signature_garbage", "the signature is not base64")

    try:
        return base64.b64decode(body.replace("\n", ""), validate=True)
    except binascii.Error as error:
        raise ManifestError("signature_garbage", "the signature is not base64") from error


def _strings(blob: bytes, count: int) -> list[bytes]:
    """Return the length-prefixed strings of a blob.

    Raise ManifestError unless there are exactly `count`.
    """
    found = []
    at = 0

    for _ in range(count):
        try:
            (length,) = struct.unpack_from(">I", blob, at)
        except struct.error as error:
            raise ManifestError("signature_truncated", "the signature ends too early") from error
        if length > len(blob) - at - 4:
            raise ManifestError("signature_truncated", "the signature ends too early")
        found.append(blob[at + 4 : at + 4 + length])
        at += 4 + length

    if at != len(blob):
        raise ManifestError("signature_trailing", "something follows the signature")

    return found
