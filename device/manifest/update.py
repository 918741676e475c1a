"""An update: a release as a file that an update server hands to a board, without a line to us.

    update.json      what the update is, and which release and runtime it stands for
    release.cargo    the release: one line, its manifest, its signature, its files one after another
    runtime.cargo    the runtime, if the update carries it

A cargo file is read once from its first byte to its last and is never unpacked by name: each file
in it is a blob that is named by its sha256. Nothing in an update is executed before the board has
checked the signatures. Standard library only, Python 3.10 up.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from device.manifest import MAX_MANIFEST_BYTES, ManifestError, checked_digest
from device.manifest.reading import parse_json
from device.manifest.signature import MAX_SIGNATURE_BYTES

UPDATE = "update.json"
RELEASE_CARGO, RUNTIME_CARGO = "release.cargo", "runtime.cargo"
SCHEMA = 1
MAX_UPDATE_BYTES = 64 << 10
MAX_BLOBS = 4096
"""Maximum number of files in a cargo; a runtime with its packages has some hundred."""
MAX_BLOB_BYTES = 1 << 40
MAX_COUNTER = 1 << 53
MAX_TEXT = 200
KINDS = ("runtime", "release")


@dataclass(frozen=True)
class Update:
    """What an update is: the fields of `update.json`."""

    release: str
    runtime: str
    """Id of the runtime that the release needs."""
    name: str
    version: str
    counter: int
    target: str


@dataclass(frozen=True)
class CargoLine:
    """The first line of a cargo file: what follows it."""

    kind: str
    """`runtime` or `release`."""
    manifest: int
    """Bytes of the manifest."""
    signature: int
    """Bytes of its signature."""
    blobs: "tuple[tuple[str, int], ...]"
    """sha256 and bytes of each file."""

    @property
    def size_bytes(self) -> int:
        """Bytes that follow the line."""
        return self.manifest + self.signature + sum(size for _, size in self.blobs)


def update_bytes(update: Update) -> bytes:
    """Return `update.json`: the same update gives the same bytes."""
    fields = {"schema": SCHEMA, **asdict(update)}
    return json.dumps(fields, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_update(content: bytes) -> Update:
    """Return the checked fields of `update.json`; raise ManifestError `bad_update`."""
    if len(content) > MAX_UPDATE_BYTES:
        raise ManifestError("bad_update", f"`{UPDATE}` is larger than {MAX_UPDATE_BYTES:,} bytes")
    fields = _object(content, f"`{UPDATE}`")
    if fields.get("schema") != SCHEMA:
        raise ManifestError(
            "newer_schema", f"`{UPDATE}` has schema {str(fields.get('schema'))[:20]}"
        )

    for name in ("name", "version", "target"):
        value = fields.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
            raise ManifestError("bad_update", f"`{UPDATE}`: `{name}` is not a short text")
    counter = fields.get("counter")
    if type(counter) is not int or not 0 <= counter <= MAX_COUNTER:
        raise ManifestError("bad_update", f"`{UPDATE}`: `counter` is not a counter")

    return Update(
        release=checked_digest(str(fields.get("release"))),
        runtime=checked_digest(str(fields.get("runtime"))),
        name=fields["name"],
        version=fields["version"],
        counter=counter,
        target=fields["target"],
    )


def cargo_line(line: CargoLine) -> bytes:
    """Return the first line of a cargo file."""
    return json.dumps({"cargo": SCHEMA, **asdict(line)}, sort_keys=True).encode() + b"\n"


def read_cargo_line(content: bytes) -> CargoLine:
    """Return the checked first line of a cargo file; raise ManifestError `bad_cargo`."""
    fields = _object(content, "the cargo's first line", "bad_cargo")
    if fields.get("cargo") != SCHEMA or fields.get("kind") not in KINDS:
        raise ManifestError("bad_cargo", "the file is no cargo of a release or a runtime")

    blobs = fields.get("blobs")
    if not isinstance(blobs, list) or not 0 < len(blobs) <= MAX_BLOBS:
        raise ManifestError("bad_cargo", "the cargo's list of files is out of range")
    pairs = tuple(_blob(entry) for entry in blobs)
    if len({digest for digest, _ in pairs}) != len(pairs):
        raise ManifestError("bad_cargo", "the cargo has a file twice")

    return CargoLine(
        kind=fields["kind"],
        manifest=_number(fields, "manifest", MAX_MANIFEST_BYTES),
        signature=_number(fields, "signature", MAX_SIGNATURE_BYTES),
        blobs=pairs,
    )


def _blob(entry: Any) -> "tuple[str, int]":
    if not isinstance(entry, list) or len(entry) != 2:
        raise ManifestError("bad_cargo", "a file of the cargo is not a digest and a size")
    digest, size = entry
    if type(size) is not int or not 0 <= size <= MAX_BLOB_BYTES:
        raise ManifestError("bad_cargo", "a file of the cargo has a size out of range")
    return checked_digest(str(digest)), size


def _number(fields: "Mapping[str, Any]", name: str, limit: int) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 < value <= limit:
        raise ManifestError("bad_cargo", f"the cargo's `{name}` is not between 1 and {limit}")
    return value


def _object(content: bytes, what: str, code: str = "bad_update") -> "dict[str, Any]":
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ManifestError(code, f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise ManifestError(code, f"{what} is not a JSON object")
    return value
