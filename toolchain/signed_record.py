"""Records that strangers pass on: one JSON file with a record and the SSH signature over it.

    {"proof": {…}, "signature": "-----BEGIN SSH SIGNATURE-----…"}

What is signed is the record as compact JSON with sorted keys, so that a file may be laid out anew
without its signature breaking. Whoever reads one trusts no byte of it.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from device.manifest import ManifestError, read_bounded
from device.manifest.reading import each_key_once, parse_json
from device.manifest.signature import MAX_SIGNATURE_BYTES, Signature, read_signature
from toolchain import signing
from toolchain.errors import ArtifactError, TrustError
from toolchain.files import write_whole
from toolchain.tools import openssh

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One kind of signed record."""

    key: str
    """Name of the record in its file, such as `proof`."""
    namespace: str
    """What its signatures are for, as `ssh-keygen -n` names it."""
    max_bytes: int
    hint: str
    """What to do with a file that is refused."""


def canonical(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record that are signed."""
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def write(form: Form, record: BaseModel, key: signing.SigningKey, path: Path) -> None:
    """Sign a record and write it as one file."""
    plain = record.model_dump(mode="json")
    signature = signing.signature(canonical(plain), key, form.namespace)
    content = {form.key: plain, "signature": signature}
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read(
    form: Form, path: Path, shape: type[Record], *, verify: bool = True
) -> tuple[Record, Signature]:
    """Return somebody's record and its signature.

    Raise ArtifactError for another file or a wrong field, TrustError for a false signature. Without
    `verify` the signature is only read for its key: for files that come with this program.
    """
    plain, said = _parts(form, path)
    text = _as_written(said)
    try:
        signature = read_signature(text.encode("ascii", "replace"))
    except ManifestError as error:
        raise TrustError(f"{path.name}: {error}", hint=form.hint) from error

    if signature.namespace != form.namespace:
        wrong = signature.namespace[:60]
        raise TrustError(
            f"{path.name}: its signature is for `{wrong}`, not for `{form.namespace}`",
            hint=form.hint,
        )
    if verify and not _is_signature_of(form, canonical(plain), text):
        raise TrustError(
            f"{path.name}: a signature of other bytes: "
            f"the {form.key} was changed after it was signed",
            hint=form.hint,
        )
    return _checked(form, path, plain, shape), signature


def _parts(form: Form, path: Path) -> tuple[dict[str, Any], str]:
    content = read_bounded(path, form.max_bytes)
    if content is None and not path.exists():
        raise ArtifactError(f"{path}: no such file")
    if content is None or len(content) > form.max_bytes:
        raise ArtifactError(
            f"{path}: cannot be read, or is larger than {form.max_bytes >> 20} MiB", hint=form.hint
        )
    try:
        # Only the last one is signed: whoever reads the file sees the first.
        value = parse_json(content, pairs=each_key_once)
    except ValueError as error:
        problem = f"{path.name}: not JSON: {str(error)[:100]}"
        raise ArtifactError(problem, hint=form.hint) from error

    parts = value if isinstance(value, dict) and set(value) == {form.key, "signature"} else {}
    record, signature = parts.get(form.key), parts.get("signature")
    if not isinstance(record, dict) or not isinstance(signature, str):
        raise ArtifactError(f"{path.name}: not a signed {form.key}", hint=form.hint)
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise TrustError(f"{path.name}: its signature is too large", hint=form.hint)
    return record, signature


def _as_written(signature: str) -> str:
    """Return a signature's text with the line ends that ssh-keygen writes.

    Mail programs change them, and drop the last one. The record is signed, not this text.
    """
    return signature.replace("\r\n", "\n").strip() + "\n"


def _checked(form: Form, path: Path, plain: dict[str, Any], shape: type[Record]) -> Record:
    try:
        # As JSON, because pydantic's strict mode for Python would refuse lists for tuples.
        return shape.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in problem["loc"])
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        raise ArtifactError(f"{path.name}: `{where}`: {said[:200]}", hint=form.hint) from error


def _is_signature_of(form: Form, content: bytes, signature: str) -> bool:
    with tempfile.TemporaryDirectory(prefix=f"{form.namespace}-") as folder:
        file = Path(folder) / "signature"
        file.write_text(signature, encoding="utf-8", errors="replace")
        return openssh.is_signature_of(content, file, form.namespace)
