"""Signatures over what travels, by the SSH key that the user already has (docs/trust.md).

A signature lies beside its manifest as `<manifest>.sig` and travels with it. It is no part of a
release's name nor of the stage's record: the same inputs give the same release, whoever signs it.
The rule: only a missing signature is made, and only over a folder that still is what was made.
"""

import datetime
import os
import tempfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device.manifest import (
    BUNDLE_MANIFEST,
    MAX_MANIFEST_BYTES,
    RUNTIME_MANIFEST,
    ManifestError,
    read_bounded,
    read_manifest,
    read_runtime,
    verify_files,
)
from device.manifest.signature import (
    KEY_KINDS,
    MAX_SIGNATURE_BYTES,
    NAMESPACES,
    SUFFIX,
    Signature,
    fingerprint,
    read_key,
    read_signature,
)
from toolchain.artifacts import RECORD, digest, recorded
from toolchain.errors import ArtifactError, ConfigError, TrustError
from toolchain.files import write_whole
from toolchain.progress import Reporter
from toolchain.tools import openssh

ENVIRONMENT = "DEMITASSE_SIGN_KEY"
USUAL = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk")
"""The names under which OpenSSH keeps the keys that may sign."""
_CHANGED_HINT = "do not sign it: find out who changed the folder, then package it again"
_KINDS_HINT = (
    "a key of kind ed25519 or ecdsa, with or without a security key, may sign: "
    "ssh-keygen -t ed25519 makes one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key that can sign."""

    public: str
    """Its line in a .pub file."""
    file: Path | None = None
    """Where it is; None for one that only the agent holds."""

    @property
    def key(self) -> bytes:
        """The public key, as SSH writes it."""
        return _key(self.public)

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen prints it."""
        return fingerprint(self.key)


def find_key(asked: str = "") -> SigningKey:
    """Return the key to sign with; raise ConfigError if there is none, or no single one.

    It is the one that is named, the only usual one in ~/.ssh, or the agent's first.
    """
    if asked := asked or os.environ.get(ENVIRONMENT, ""):
        return _from_file(Path(asked).expanduser())
    usual = [
        file
        for name in USUAL
        if _public_half(file := Path.home() / ".ssh" / name).is_file() or file.is_file()
    ]
    if len(usual) == 1:
        return _from_file(usual[0])
    if held := [line for line in openssh.agent_keys() if line.partition(" ")[0] in KEY_KINDS]:
        return SigningKey(public=held[0])
    if usual:
        names = ", ".join(f"~/.ssh/{file.name}" for file in usual)
        raise ConfigError(
            f"several keys could sign: {names}", hint=f"--sign KEY or {ENVIRONMENT} says which"
        )
    raise ConfigError(
        "no SSH key to sign with",
        hint=f"{_KINDS_HINT}; --sign KEY or {ENVIRONMENT} names one; --allow-unsigned goes without",
    )


def sign(manifests: Sequence[Path], key: SigningKey, report: Reporter) -> None:
    """Sign manifests, those that this key has signed before left as they are.

    Raise TrustError, before anything is signed, where a signature is false or a folder is not what
    was made.
    """
    signatures = {manifest: signature_of(manifest) for manifest in manifests}
    unsigned = [path for path, made in signatures.items() if not made or made.key != key.key]
    for manifest in unsigned:
        refuse_changed(manifest)

    for manifest in unsigned:
        if manifest.name == BUNDLE_MANIFEST:
            report.note(_described(manifest, signatures[manifest]))
        if key.public.startswith("sk-"):
            report.note(f"touch the security key: it signs {manifest.name}")
        try:
            write_whole(manifest.with_name(manifest.name + SUFFIX), _signed(manifest, key))
        except OSError as error:
            raise ArtifactError(
                f"{manifest.parent}: the signature cannot be kept there: {error.strerror}"
            ) from error


def _described(manifest: Path, before: Signature | None) -> str:
    """Return what is going to be signed; of a folder from elsewhere only the release is proof."""
    bundle = read_manifest(manifest.parent)
    day = datetime.date.fromtimestamp(manifest.stat().st_mtime).isoformat()
    had = f"signed by {before.fingerprint} before" if before else "no signature was there"
    return (
        f"signs {bundle.name} {bundle.version} for {bundle.target}, counter {bundle.counter}: "
        f"release {bundle.release_id()[:12]}, its manifest written on {day}; {had}"
    )


def refuse_untrusted(address: str, what: str, signature: bytes, signers: Sequence[str]) -> None:
    """Raise TrustError if a board that knows these keys (in base64) would refuse this signature."""
    if not signature:
        raise TrustError(
            f"{address}: {what} is not signed",
            hint="demitasse sign BUNDLE signs it; --allow-unsigned goes without",
        )
    try:
        said = read_signature(signature)
    except ManifestError as error:
        raise TrustError(
            f"{address}: {what}: {error}", hint="sign it again: demitasse sign BUNDLE"
        ) from error
    if b64encode(said.key).decode() not in signers:
        hint = (
            f"demitasse trust {address} pins your key there; "
            "--sign KEY signs with one that it knows"
        )
        raise TrustError(
            f"{address}: the board does not know the key {said.fingerprint} that signed {what}",
            hint=hint,
        )


def signature_of(manifest: Path) -> Signature | None:
    """Return the signature of a manifest, None if there is none; raise TrustError for a false one.

    A false one is never replaced: who signs what somebody else has changed vouches for the change.
    """
    file = manifest.with_name(manifest.name + SUFFIX)
    if not os.path.lexists(file):
        return None
    where = f"{manifest.parent.name}: {file.name}"
    content = read_bounded(file, MAX_SIGNATURE_BYTES)
    signed = read_bounded(manifest, MAX_MANIFEST_BYTES)
    if content is None or signed is None:
        raise TrustError(f"{where}: not a signature that can be read", hint=_CHANGED_HINT)

    try:
        signature = read_signature(content)
    except ManifestError as error:
        raise TrustError(f"{where}: {error}", hint=_CHANGED_HINT) from error
    namespace = NAMESPACES[manifest.name]
    if signature.namespace != namespace or not openssh.is_signature_of(signed, file, namespace):
        raise TrustError(
            f"{where}: a signature of other bytes: "
            f"`{manifest.name}` was changed after it was signed",
            hint=_CHANGED_HINT,
        )
    return signature


def refuse_changed(manifest: Path) -> None:
    """Raise TrustError unless a folder holds what its record or manifest says."""
    folder = manifest.parent
    if manifest.name == RUNTIME_MANIFEST:
        try:
            verify_files(folder, read_runtime(folder).files, RUNTIME_MANIFEST)
        except ManifestError as error:
            raise TrustError(
                f"{folder.name}: {error}", hint="delete the folder: the runtime is made again"
            ) from error
        return

    record = recorded(folder)
    bytes_now = digest(folder, without=(manifest.name + SUFFIX,), anew=True)
    if record is None or record.digest != bytes_now:
        raise TrustError(
            f"{folder.name}: not what its {RECORD} says: the folder was changed after it was made",
            hint=_CHANGED_HINT,
        )


def public_key(file: Path) -> str:
    """Return the line of a .pub file of a key that may sign; raise ConfigError."""
    try:
        line = file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a public key that can be read") from error
    _key(line, f"{file}: ")
    return line


def _signed(manifest: Path, key: SigningKey) -> str:
    return signature(manifest.read_bytes(), key, NAMESPACES[manifest.name])


def signature(content: bytes, key: SigningKey, namespace: str) -> str:
    """Return an SSH signature over bytes, by a file or by the agent."""
    if key.file:
        return openssh.sign(content, key.file, namespace)
    with tempfile.TemporaryDirectory() as folder:
        public = Path(folder) / "agent.pub"
        public.write_text(key.public + "\n", encoding="utf-8")
        return openssh.sign(content, public, namespace)


def _from_file(file: Path) -> SigningKey:
    public = _public_half(file)
    if not public.is_file() and not file.is_file():
        raise ConfigError(f"{file}: there is no such key", hint=_KINDS_HINT)
    line = public_key(public) if public.is_file() else openssh.public_key(file)
    _key(line, f"{file}: ")
    return SigningKey(public=line, file=file if file.is_file() else public)


def _public_half(file: Path) -> Path:
    return file if file.suffix == ".pub" else file.with_name(f"{file.name}.pub")


def _key(line: str, where: str = "") -> bytes:
    try:
        kind, key = line.split(None, 2)[:2]
        return read_key(kind, key)
    except ManifestError as error:
        raise ConfigError(f"{where}{error}", hint=_KINDS_HINT) from error
    except ValueError as error:
        raise ConfigError(f"{where}not a public key", hint=_KINDS_HINT) from error
