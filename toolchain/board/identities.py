"""Which keys are tried on a board, in OpenSSH's order.

First the configured keys that the agent holds, then the agent's other keys, then private keys in
files. A key that cannot be tried is no fault of the board: the reason is kept, and reported if no
other key is accepted.
"""

import base64
import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from paramiko.pkey import PublicBlob

from toolchain.board.host_certificates import SUFFIX as CERTIFICATE
from toolchain.board.route import Route
from toolchain.board.ssh_agent import SshAgent, take_string
from toolchain.errors import ToolchainError

_OPENSSH_MAGIC = b"openssh-key-v1\0"
_MAX_KEY_BYTES = 1 << 20
_KEY_PARTS = {
    b"ssh-ed25519": 1,
    b"ssh-rsa": 2,
    b"ecdsa-sha2": 2,
    b"sk-ssh-ed25519": 2,
    b"sk-ecdsa-sha2": 3,
}
"""Kind of key → strings of its public half."""
_NO_SIGNATURE = b"\0\0\0\0\0\0\0\0"


@dataclass(frozen=True, slots=True)
class Public:
    """A public key or a certificate, in parts."""

    kind: str
    blob: bytes

    @property
    def is_hardware(self) -> bool:
        """Whether the private half is in a security key."""
        return self.kind.startswith("sk-")


_NO_AGENT = "no agent is asked: start one, or leave out `IdentityAgent none` in ~/.ssh/config"


class Keys:
    """Keys to try on a board, and the reasons why others cannot be tried."""

    def __init__(self, way: Route) -> None:
        self._way = way
        self.problems: list[str] = []
        """One sentence for each key that was named or found and could not be tried."""

    def candidates(self) -> Iterator[tuple[str, paramiko.PKey]]:
        """Yield name and key of each candidate, the agent's first."""
        agent = SshAgent(self._way.agent)
        held = agent.keys() if self._way.agent else {}
        named = [(file, public) for file in self._way.identities for public in _publics(file)]
        named += [(file, public) for file in self._way.certificates for public in _publics(file)]
        by_key = {_plain(blob): blob for blob in held}
        from_files = []
        used = set()

        for file, public in named:
            signer = public.blob if public.blob in held else by_key.get(_plain(public.blob))
            if signer is None:
                from_files.append((file, public))
            else:
                used |= {public.blob, signer}
                yield file, AgentKey(agent, public, signer, self.problems)

        if not self._way.only_identities:
            for blob, comment in held.items():
                if blob not in used:
                    yield comment, AgentKey(agent, _of(blob), blob, self.problems)

        yield from self._from_files(from_files)

    def _from_files(
        self, named: Sequence[tuple[str, Public]]
    ) -> Iterator[tuple[str, paramiko.PKey]]:
        private: dict[bytes, Path] = {}
        for file in self._way.identities:
            path = Path(file)
            if path.is_file():
                for public in _publics(file):
                    private.setdefault(_plain(public.blob), path)
                if not _publics(file):
                    yield from self._loaded(path, None)

        for file, public in named:
            at = private.get(_plain(public.blob))
            if at is not None:
                yield from self._loaded(at, public)
            elif Path(file).is_file() or Path(file + ".pub").is_file():
                self.problems.append(f"{file}: the agent does not hold it")

    def _loaded(self, path: Path, public: Public | None) -> Iterator[tuple[str, paramiko.PKey]]:
        """Yield a private key of a file, shown as `public`: the key itself or a certificate."""
        problem = _unusable(path, has_agent=bool(self._way.agent))
        if not problem:
            try:
                key = _private_key(_read(path))
                if public and public.kind.endswith(CERTIFICATE):
                    key.public_blob = PublicBlob(public.kind, public.blob)
                yield str(path), key
                return
            except (paramiko.SSHException, UnsupportedAlgorithm, ValueError, TypeError) as error:
                problem = f"not a private key that can be read: {error}"
        if (sentence := f"{path}: {problem}") not in self.problems:
            self.problems.append(sentence)


class AgentKey(paramiko.PKey):
    """A key that the agent holds.

    When the agent gives no signature, the board gets an empty one and refuses it, and the next key
    is tried. paramiko signs in the thread that reads the line: an error there would end the
    connection.
    """

    def __init__(self, agent: SshAgent, public: Public, signer: bytes, problems: list[str]) -> None:
        self._agent, self._signer, self._problems = agent, signer, problems
        self._public = public
        self.public_blob = PublicBlob(public.kind, public.blob)

    def get_name(self) -> str:
        """Return the kind of key."""
        return self._public.kind

    def asbytes(self) -> bytes:
        """Return the public key as SSH writes it."""
        return self._public.blob

    # paramiko's own `PKey.sign_ssh_data` returns bytes where its types say Message.
    def sign_ssh_data(  # type: ignore[override]
        self, data: bytes, algorithm: str | None = None
    ) -> bytes:
        """Return a signature by the agent."""
        try:
            return self._agent.sign(self._signer, data, algorithm or self.get_name())
        except ToolchainError as error:
            self._problems.append(error.message)
            return _NO_SIGNATURE


def _publics(file: str) -> list[Public]:
    """Return the public key of a key file and its certificate, as OpenSSH finds them.

    They lie beside the private key, or in it.
    """
    path = Path(file)
    known = [
        _public_line(path.with_name(path.name + ".pub")),
        _public_line(path),
        _in_private(path),
    ]
    first = next((public for public in known if public), None)
    certificate = _public_line(path.with_name(path.name + "-cert.pub"))
    return [public for public in (first, certificate) if public]


def _public_line(path: Path) -> Public | None:
    words = _read(path).split(None, 2)
    if len(words) < 2:
        return None

    try:
        public = _of(base64.b64decode(words[1], validate=True))
    except (ValueError, struct.error):
        return None

    return public if public.kind.encode() == words[0] else None


def _in_private(path: Path) -> Public | None:
    """Return the public half that OpenSSH writes in front of a private key, encrypted or not."""
    content = _unarmoured(_read(path))
    if not content:
        return None

    try:
        rest = content[len(_OPENSSH_MAGIC) :]
        for _ in range(3):  # cipher, key derivation, its options
            _, rest = take_string(rest)
        return _of(take_string(rest[4:])[0])
    except (ValueError, struct.error):
        return None


def _unusable(path: Path, *, has_agent: bool) -> str:
    """Return why OpenSSH would not sign with a private key file unasked; "" if it would."""
    content = _read(path)
    if not content:
        return "cannot be read"

    seen = path.stat()
    if seen.st_uid == os.getuid() and seen.st_mode & 0o077:
        return (
            "others may read this private key, and OpenSSH does not take such a one "
            f"(chmod 600 '{path}')"
        )

    public = _in_private(path)
    inside = _unarmoured(content)
    locked = inside and not inside[len(_OPENSSH_MAGIC) :].startswith(b"\0\0\0\4none")
    # A key in an agent that this board's line of ~/.ssh/config does not ask would help nobody.
    way_out = f"ssh-add '{path}', then again" if has_agent else _NO_AGENT
    if locked or b"ENCRYPTED" in content[:400]:
        return f"the private key is locked with a passphrase ({way_out})"
    if public and public.is_hardware:
        return f"a hardware key signs through the agent ({way_out})"
    return ""


def _unarmoured(content: bytes) -> bytes:
    """Return the content of a key in OpenSSH's own format; b"" for another format."""
    head, _, rest = content.partition(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    body, _, _ = rest.partition(b"-----END OPENSSH PRIVATE KEY-----")
    if head.strip() or not body:
        return b""

    try:
        inside = base64.b64decode(b"".join(body.split()), validate=True)
    except ValueError:
        return b""

    return inside if inside.startswith(_OPENSSH_MAGIC) else b""


def _private_key(content: bytes) -> paramiko.PKey:
    """Return a private key in OpenSSH's or PEM's format.

    Raises ValueError for a kind of key that paramiko does not sign with.
    """
    load = load_ssh_private_key if _unarmoured(content) else load_pem_private_key
    loaded = load(content, None)
    kinds: dict[type, type[paramiko.PKey]] = {
        RSAPrivateKey: paramiko.RSAKey,
        EllipticCurvePrivateKey: paramiko.ECDSAKey,
        Ed25519PrivateKey: paramiko.Ed25519Key,
    }

    for kind, key_class in kinds.items():
        if isinstance(loaded, kind):
            text = loaded.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            return key_class.from_private_key(io.StringIO(text.decode()))

    raise ValueError("a kind of key that no board takes any more")


def _plain(blob: bytes) -> bytes:
    """Return a certificate's public key, a plain key unchanged (OpenSSH's PROTOCOL.certkeys)."""

    kind, rest = take_string(blob)
    if not kind.endswith(CERTIFICATE.encode()):
        return blob

    plain = kind.removesuffix(CERTIFICATE.encode())
    kept = [plain + b"@openssh.com" if plain.startswith(b"sk-") else plain]
    _, rest = take_string(rest)  # a nonce

    for _ in range(_KEY_PARTS.get(plain.partition(b"-nistp")[0], 0)):
        part, rest = take_string(rest)
        kept.append(part)

    return b"".join(struct.pack(">I", len(part)) + part for part in kept)


def _of(blob: bytes) -> Public:
    return Public(take_string(blob)[0].decode("ascii"), blob)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_KEY_BYTES) if path.is_file() else b""
    except OSError:
        return b""
