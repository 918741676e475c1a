"""The manifest of what travels to a board, and its check: the one schema that host and board share.

A bundle is a folder with `manifest.json` and the files that it names. A runtime is a folder with
`runtime.json` and its files. Unknown fields are kept, so that an older board passes a newer
manifest on unharmed. Standard library only, Python 3.10 up.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from device.manifest.external import data_name
from device.manifest.fields import (
    ALTERNATING,
    ENGINE,
    FILES,
    LEDGER,
    MAX_CHARS,
    MAX_CONTEXT,
    MAX_NUMBER,
    MAX_TOKEN,
    MESSAGES,
    NAME,
    TENSORS,
    check_fields,
    each,
    is_a,
    is_schema,
    number,
    one_of,
    text,
    values,
)
from device.manifest.fields import ANSWERS as ANSWERS
from device.manifest.fields import ESCAPE as ESCAPE
from device.manifest.fields import MAX_FEEDBACK_MB as MAX_FEEDBACK_MB
from device.manifest.fields import MAX_SLOTS as MAX_SLOTS
from device.manifest.fields import MAX_TAKE as MAX_TAKE
from device.manifest.fields import PARSE as PARSE
from device.manifest.fields import QUOTE as QUOTE
from device.manifest.fields import WORDED as WORDED
from device.manifest.fields import ManifestError as ManifestError
from device.manifest.files import EMBEDDER as EMBEDDER
from device.manifest.files import GOLDENS as GOLDENS
from device.manifest.files import KNOWLEDGE as KNOWLEDGE
from device.manifest.files import MIN_AGREEMENT as MIN_AGREEMENT
from device.manifest.files import TEMPLATE as TEMPLATE
from device.manifest.files import TOKENIZER as TOKENIZER
from device.manifest.files import File as File
from device.manifest.files import checked_digest as checked_digest
from device.manifest.files import checked_path as checked_path
from device.manifest.files import file_entry as file_entry
from device.manifest.files import paths_of as paths_of
from device.manifest.files import sha256_of as sha256_of
from device.manifest.files import verify_files as verify_files
from device.manifest.guard import GUARD as GUARD
from device.manifest.guard import QUESTIONS, REFUSE
from device.manifest.opening import MAX_OPENING_BYTES, opening_of
from device.manifest.reading import RepeatedKeyError, each_key_once, first_repeated, parse_json
from device.manifest.reading import read_bounded as read_bounded

SCHEMA = 1
BUNDLE_MANIFEST = "manifest.json"
RUNTIME_MANIFEST = "runtime.json"
MAX_MANIFEST_BYTES = 8 << 20


@dataclass(frozen=True)
class Engine:
    """The library that runs the model file."""

    name: str
    """`llama.cpp`, `litert` or `ort`."""
    oldest: str
    """Oldest version known to run this file."""


@dataclass(frozen=True)
class Manifest:
    """The contents of a bundle."""

    name: Annotated[str, NAME]
    version: Annotated[str, text()]
    counter: Annotated[int, number(0, MAX_NUMBER)]
    """Number that grows with every release of this name: a board refuses a smaller one."""
    target: Annotated[str, text()]
    context: Annotated[int, number(1, MAX_CONTEXT)]
    """Tokens of context that the release is served with."""
    engine: Annotated[Engine, ENGINE]
    model: Annotated[str, text(1024)]
    """Path to the model file inside the bundle."""
    files: Annotated[tuple[File, ...], FILES]
    tensors: Annotated[tuple[dict[str, Any], ...], TENSORS] = ()
    """Name, type, size and sha256 of each tensor."""
    kv_type: Annotated[str, text(16)] = "f16"
    stop_ids: Annotated[tuple[int, ...], each(number(0, MAX_TOKEN))] = ()
    system: Annotated[str, is_a(str)] = ""
    """Instructions put before every conversation that has none of its own."""
    turns: Annotated[tuple[dict[str, Any], ...], MESSAGES, ALTERNATING] = ()
    """Questions and answers, as messages, between the instructions and the conversation."""
    max_tokens: Annotated[int, number(1, MAX_TOKEN)] = 256
    """Length limit of an answer, in tokens, if the request sets none."""
    slots: Annotated[int, number(1, MAX_SLOTS)] = 1
    """Number of questions that are answered at the same time if the board has the memory."""
    special_tokens: Annotated[str, one_of(PARSE, ESCAPE)] = PARSE
    """Treatment of control tokens in a client's text.

    `parse` reads them as control tokens, `escape` as plain text.
    """
    provenance: Annotated[dict[str, Any], is_a(dict)] = field(default_factory=dict)
    licences: Annotated[tuple[str, ...], each(text(MAX_CHARS))] = ()
    ledger: Annotated[dict[str, Any], LEDGER] = field(default_factory=dict)
    """Sources that the release is made of, their terms, and what was found and done in them."""
    gate: Annotated[dict[str, Any], is_a(dict)] = field(default_factory=dict)
    arithmetic: Annotated[str, text(MAX_CHARS)] = ""
    """`RuntimeManifest.arithmetic` of the runtime that the goldens were taken with."""
    adapter: Annotated[str, text(1024)] = ""
    """Path to a LoRA adapter that the engine adds to the model file; empty if there is none."""
    # Other bundles may share the model file, with adapters of their own.
    projector: Annotated[str, text(1024)] = ""
    """Path to the GGUF file that turns a picture into what the model reads; empty for a model that
    reads text alone."""
    knowledge: Annotated[str, text(1024)] = ""
    """Path to the passages that questions are answered from; empty if there are none."""
    embedder: Annotated[str, text(1024)] = ""
    """Path to the GGUF file that turns a question into the vector that passages are found by."""
    answer: Annotated[str, one_of(*ANSWERS)] = QUOTE
    """Who words an answer from the passages: `quote` gives the best one as it stands, `model` lets
    the model read them."""
    take: Annotated[int, number(1, MAX_TAKE)] = 3
    """Number of passages that are looked up for a question."""
    feedback_mb: Annotated[int, number(0, MAX_FEEDBACK_MB)] = 0
    """Megabytes of the board's disk for what people think of answers; 0: nothing is kept."""
    guard: Annotated[str, text(1024)] = ""
    """Path to the filter that tells unsafe questions and answers; empty if there is none."""
    refuse: Annotated[str, one_of(*REFUSE)] = QUESTIONS
    """What is refused where there is a guard: questions, answers too (`both`), or nothing."""
    needs: Annotated[dict[str, int], values(number(0, MAX_NUMBER))] = field(default_factory=dict)
    """Bytes of memory: `weights_bytes`, `kv_bytes` at this context, `compute_bytes`."""
    schema: Annotated[int, number(0, MAX_NUMBER), is_schema(SCHEMA)] = SCHEMA
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of a newer schema, unchanged."""

    def release_id(self) -> str:
        """Return the sha256 of the manifest's own bytes: the name of this release on a board."""
        return hashlib.sha256(to_bytes(self)).hexdigest()

    @property
    def opened(self) -> tuple[str, ...]:
        """Paths of the files that are opened to answer; empty for one that there is not."""
        return (
            self.model,
            self.adapter,
            self.projector,
            self.knowledge,
            self.embedder,
            self.guard,
        )

    @property
    def model_files(self) -> tuple[str, ...]:
        """Paths of the model file, and of the file with its weights if they are apart."""
        apart = data_name(self.model)
        has_data = any(entry.path == apart for entry in self.files)
        return (self.model, apart) if has_data else (self.model,)

    @property
    def feedback_bytes(self) -> int:
        """Bytes of the board's disk for what people think of answers."""
        return self.feedback_mb << 20

    @property
    def escapes(self) -> bool:
        """Whether control tokens in a client's text are broken up."""
        return self.special_tokens == ESCAPE

    @property
    def opening(self) -> "tuple[Mapping[str, Any], ...]":
        """Beginning of every conversation: the instructions, then the turns."""
        return opening_of(self.system, self.turns)

    def file(self, path: str) -> File:
        """Return the entry of a file.

        Raise ManifestError `missing_file` if the manifest does not name it.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        raise ManifestError("missing_file", f"the manifest names no `{path}`")


@dataclass(frozen=True)
class RuntimeManifest:
    """The contents of a runtime: libraries and the device package, for one kind of processor."""

    machine: Annotated[str, text(64)]
    """`uname -m`: aarch64 or x86_64."""
    features: Annotated[tuple[str, ...], each(text(64))]
    """CPU features that the libraries use, spelled as in /proc/cpuinfo."""
    glibc: Annotated[str, text(32, r"\d{1,4}(\.\d{1,4}){0,3}")]
    """Oldest glibc on which the libraries load."""
    python: Annotated[tuple[int, int], each(number(0, 999), most=2, least=2)]
    """Oldest Python that runs it, as (major, minor)."""
    engines: Annotated[dict[str, str], values(text())]
    """Engine name → version."""
    files: Annotated[tuple[File, ...], FILES]
    profile: Annotated[str, text()] = ""
    python_tag: Annotated[str, text(16, r"(cp\d+)?")] = ""
    """The one Python whose extension modules it contains, such as `cp311`; empty for any."""
    dispatches: Annotated[bool, is_a(bool)] = False
    """Whether its libraries choose kernels by the processor they find."""
    # Then other processors give other last bits.
    schema: Annotated[int, number(0, MAX_NUMBER), is_schema(SCHEMA)] = SCHEMA
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def arithmetic(self) -> str:
        """Text that decides the last bits of a result: equal text gives equal tokens."""
        return " ".join((self.machine, *sorted(self.features)))

    def runtime_id(self) -> str:
        """Return the sha256 of the manifest's own bytes: the name of this runtime on a board."""
        return hashlib.sha256(to_bytes(self)).hexdigest()


def to_bytes(manifest: "Manifest | RuntimeManifest") -> bytes:
    """Return the canonical bytes of a manifest, which are written, hashed and signed."""
    fields = asdict(manifest)
    fields.update(fields.pop("extra"))
    return (json.dumps(fields, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json` of a bundle; raise ManifestError with the fault's code."""
    fields = _read(folder / BUNDLE_MANIFEST, Manifest)
    fields["engine"] = Engine(**fields["engine"])

    for name in ("tensors", "stop_ids", "licences", "turns"):
        fields[name] = tuple(fields.get(name, ()))

    manifest: Manifest = _build(Manifest, fields)

    for path in filter(None, manifest.opened):
        manifest.file(checked_path(path))
    if bool(manifest.knowledge) != bool(manifest.embedder):
        raise ManifestError("bad_manifest", "`knowledge` and `embedder` go together")

    _check_opening(manifest)
    _check_text(manifest)
    return manifest


def read_runtime(folder: Path) -> RuntimeManifest:
    """Read and check `runtime.json` of a runtime folder; raise ManifestError with its fault."""
    fields = _read(folder / RUNTIME_MANIFEST, RuntimeManifest)
    for name in ("python", "features"):
        fields[name] = tuple(fields[name])

    runtime: RuntimeManifest = _build(RuntimeManifest, fields)
    _check_text(runtime)
    return runtime


def _read(path: Path, kind: type) -> dict[str, Any]:
    """Return the checked fields of a manifest file."""
    content = read_bounded(path, MAX_MANIFEST_BYTES)
    if content is None:
        raise ManifestError("no_manifest", f"{path.name} cannot be read")
    if len(content) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            "manifest_too_large", f"{path.name} is larger than {MAX_MANIFEST_BYTES >> 20} MiB"
        )

    try:
        fields = parse_json(content, pairs=each_key_once)
    except RepeatedKeyError as error:
        raise ManifestError(
            "duplicate_key", f"the key {error.key[:40]!r} is there twice"
        ) from error
    except ValueError as error:
        raise ManifestError("bad_manifest", f"{path.name} is not valid JSON") from error

    if not isinstance(fields, dict):
        raise ManifestError("bad_manifest", f"{path.name} is not an object")

    check_fields(kind, fields, path.name)
    fields["files"] = tuple(
        File(checked_path(entry["path"]), checked_digest(entry.get("sha256", "")), entry["size"])
        for entry in fields["files"]
    )
    _check_names([entry.path for entry in fields["files"]], path.name)

    return fields


def _check_names(paths: list[str], manifest_name: str) -> None:
    """Raise ManifestError unless every path can be a file of its own.

    The names of the manifest and its signature are taken.
    """
    taken = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    taken |= {manifest_name, manifest_name + ".sig"}
    if twice := first_repeated(paths):
        raise ManifestError("duplicate_file", f"{manifest_name} names `{twice}` twice")

    for path in paths:
        if path in taken:
            raise ManifestError("bad_path", f"the name `{path}` is taken")


def _check_opening(manifest: Manifest) -> None:
    try:
        size = sum(len(message["content"].encode()) for message in manifest.opening)
    except UnicodeEncodeError as error:
        raise ManifestError("bad_manifest", "`system` and `turns` must be valid Unicode") from error
    if size > MAX_OPENING_BYTES:
        raise ManifestError(
            "bad_manifest",
            f"`system` and `turns` have {size:,} bytes, at most {MAX_OPENING_BYTES:,} are allowed",
        )


def _check_text(manifest: "Manifest | RuntimeManifest") -> None:
    try:
        to_bytes(manifest)
    except UnicodeEncodeError as error:
        raise ManifestError("bad_manifest", "a text in it is not valid Unicode") from error


def _build(kind: Any, fields: dict[str, Any]) -> Any:
    known = kind.__dataclass_fields__.keys() - {"extra"}
    extra = {name: value for name, value in fields.items() if name not in known}
    return kind(**{name: value for name, value in fields.items() if name in known}, extra=extra)
