"""Proofs as files: one JSON file with the record and the SSH signature over it.

    {"proof": {…}, "signature": "-----BEGIN SSH SIGNATURE-----…"}

What is signed is the record as compact JSON with sorted keys, so that a file may be laid out anew
without its signature breaking. Whoever reads one trusts no byte of it.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from device.manifest import ManifestError, read_bounded
from device.manifest.reading import parse_json
from device.manifest.signature import MAX_SIGNATURE_BYTES, read_signature
from toolchain import signing
from toolchain.errors import ArtifactError, TrustError
from toolchain.files import write_whole
from toolchain.proving.record import Proof
from toolchain.tools import openssh

NAMESPACE = "demitasse-proof"
MAX_BYTES = 2 << 20
_HINT = "ask whoever sent it for the file as `demitasse prove` wrote it"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedProof:
    """A proof and the key that signed it."""

    proof: Proof
    signer: str
    """Fingerprint of the key, as ssh-keygen prints it."""


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record that are signed."""
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def write(proof: Proof, key: signing.SigningKey, path: Path) -> SignedProof:
    """Sign a proof and write it as one file."""
    record = proof.model_dump(mode="json")
    signature = signing.signature(canonical(record), key, NAMESPACE)
    content = {"proof": record, "signature": signature}
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return SignedProof(proof=proof, signer=key.fingerprint)


def read(path: Path, *, verify: bool = True) -> SignedProof:
    """Return a proof of somebody; raise ArtifactError for a wrong field, TrustError for a false
    signature.

    Without `verify` the signature is only read for its key: for files that come with this program.
    """
    record, signature = _parts(path)
    try:
        signed = read_signature(signature.encode("ascii", "replace"))
    except ManifestError as error:
        raise TrustError(f"{path.name}: {error}", hint=_HINT) from error

    if signed.namespace != NAMESPACE:
        raise TrustError(
            f"{path.name}: its signature is for `{signed.namespace[:60]}`, not for `{NAMESPACE}`",
            hint=_HINT,
        )
    if verify and not _is_signature_of(canonical(record), signature):
        raise TrustError(
            f"{path.name}: a signature of other bytes: the record was changed after it was signed",
            hint=_HINT,
        )
    return SignedProof(proof=_checked(path, record), signer=signed.fingerprint)


def _parts(path: Path) -> tuple[dict[str, Any], str]:
    content = read_bounded(path, MAX_BYTES)
    if content is None or len(content) > MAX_BYTES:
        raise ArtifactError(
            f"{path}: cannot be read, or is larger than {MAX_BYTES >> 20} MiB", hint=_HINT
        )
    try:
        value = parse_json(content, pairs=_each_once)
    except ValueError as error:
        raise ArtifactError(f"{path.name}: not JSON: {str(error)[:100]}", hint=_HINT) from error

    if not isinstance(value, dict) or set(value) != {"proof", "signature"}:
        raise ArtifactError(f"{path.name}: not a proof", hint=_HINT)
    record, signature = value["proof"], value["signature"]
    if not isinstance(record, dict) or not isinstance(signature, str):
        raise ArtifactError(f"{path.name}: not a proof", hint=_HINT)
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise TrustError(f"{path.name}: its signature is too large", hint=_HINT)
    return record, signature


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raise ValueError for a key that stands twice."""
    # Only the last one is signed: whoever reads the file sees the first.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _checked(path: Path, record: dict[str, Any]) -> Proof:
    try:
        # As JSON, because pydantic's strict mode for Python would refuse lists for tuples.
        return Proof.model_validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in problem["loc"])
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        raise ArtifactError(f"{path.name}: `{where}`: {said[:200]}", hint=_HINT) from error


def _is_signature_of(content: bytes, signature: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="demitasse-proof-") as folder:
        file = Path(folder) / "signature"
        file.write_text(signature, encoding="utf-8", errors="replace")
        return openssh.is_signature_of(content, file, NAMESPACE)
