"""What an owner says in a round of sealed tallies: one JSON file with the SSH signature over it.

    {"statement": {…}, "signature": "-----BEGIN SSH SIGNATURE-----…"}

Whatever folder or host the files pass through, a statement is its owner's, word for word, or it is
refused. The rule to keep: who said it is decided by the key that the round names, never by a name
in the file.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from device.manifest import ManifestError, read_bounded
from device.manifest.reading import parse_json
from device.manifest.signature import MAX_SIGNATURE_BYTES, read_signature
from toolchain import signing
from toolchain.errors import ArtifactError, ConfigError, TrustError
from toolchain.files import write_whole
from toolchain.tools import openssh

NAMESPACE = "demitasse-tally"
MAX_BYTES = 4 << 20
_HINT = "ask its owner for the file as demitasse wrote it"
Statement = TypeVar("Statement", bound=BaseModel)


def write_signed(statement: BaseModel, key: signing.SigningKey, path: Path) -> None:
    """Sign a statement and write it as one file."""
    record = statement.model_dump(mode="json")
    signature = signing.signature(_canonical(record), key, NAMESPACE)
    try:
        write_whole(path, json.dumps({"statement": record, "signature": signature}) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def read_signed(path: Path, model: type[Statement]) -> tuple[Statement, bytes]:
    """Return a statement and the key that signed it, in SSH's wire format.

    Raise ArtifactError for another file, TrustError for a signature of something else.
    """
    record, signature = _parts(path)
    try:
        signed = read_signature(signature.encode("ascii", "replace"))
    except ManifestError as error:
        raise TrustError(f"{path.name}: {error}", hint=_HINT) from error
    if signed.namespace != NAMESPACE or not _is_signature_of(_canonical(record), signature):
        raise TrustError(
            f"{path.name}: a signature of other bytes: it was changed after it was signed",
            hint=_HINT,
        )
    try:
        return model.model_validate_json(json.dumps(record), strict=True), signed.key
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in problem["loc"])
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        raise ArtifactError(f"{path.name}: `{where}`: {said[:200]}", hint=_HINT) from error


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _parts(path: Path) -> tuple[dict[str, Any], str]:
    content = read_bounded(path, MAX_BYTES)
    if content is None:
        raise ArtifactError(
            f"{path}: cannot be read, or is larger than {MAX_BYTES >> 20} MiB", hint=_HINT
        )
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ArtifactError(f"{path.name}: not JSON", hint=_HINT) from error

    parts = value if isinstance(value, dict) else {}
    record, signature = parts.get("statement"), parts.get("signature")
    if not isinstance(record, dict) or not isinstance(signature, str):
        raise ArtifactError(f"{path.name}: not a statement of a round", hint=_HINT)
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise TrustError(f"{path.name}: its signature is too large", hint=_HINT)
    return record, signature


def _is_signature_of(content: bytes, signature: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="demitasse-tally-") as folder:
        file = Path(folder) / "signature"
        file.write_text(signature, encoding="utf-8", errors="replace")
        return openssh.is_signature_of(content, file, NAMESPACE)
