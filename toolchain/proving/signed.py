"""Proofs as files: a record and the signature of whoever vouches for it (signed_record.py)."""

from dataclasses import dataclass
from pathlib import Path

from toolchain import signed_record, signing
from toolchain.proving.record import Proof

MAX_BYTES = 2 << 20
FORM = signed_record.Form(
    key="proof",
    namespace="demitasse-proof",
    max_bytes=MAX_BYTES,
    hint="ask whoever sent it for the file as `demitasse prove` wrote it",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedProof:
    """A proof and the key that signed it."""

    proof: Proof
    signer: str
    """Fingerprint of the key, as ssh-keygen prints it."""


def write(proof: Proof, key: signing.SigningKey, path: Path) -> SignedProof:
    """Sign a proof and write it as one file."""
    signed_record.write(FORM, proof, key, path)
    return SignedProof(proof=proof, signer=key.fingerprint)


def read(path: Path, *, verify: bool = True) -> SignedProof:
    """Return a proof of somebody; raise ArtifactError for a wrong field, TrustError for a false
    signature.

    Without `verify` the signature is only read for its key: for files that come with this program.
    """
    proof, signature = signed_record.read(FORM, path, Proof, verify=verify)
    return SignedProof(proof=proof, signer=signature.fingerprint)
