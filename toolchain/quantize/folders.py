"""Describes a checkpoint, adapter or bundle folder from its JSON files and headers alone.

It refuses nothing. What a later stage would refuse is a warning here, so that it is known early.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from device.manifest import (
    ANSWERS,
    BUNDLE_MANIFEST,
    Manifest,
    ManifestError,
    read_manifest,
)
from toolchain import ledger
from toolchain.errors import ArtifactError
from toolchain.models import adapter_config, lora, tokenizer, weights
from toolchain.models.names import CONFIG, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG

ADAPTER = adapter_config.CONFIG
Rows = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderContents:
    """Contents of a folder, with warnings about what is odd."""

    name: str
    kind: str
    """`checkpoint`, `adapter` or `bundle`."""
    rows: tuple[tuple[str, str], ...]
    """Name and value of each shown line."""
    warnings: tuple[str, ...]


def describe(folder: Path) -> FolderContents:
    """Return what is in a folder; raise ArtifactError for one that is none of the three."""
    if (folder / BUNDLE_MANIFEST).is_file():
        return _bundle(folder)
    if (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file():
        return _adapter(folder)
    if (folder / CONFIG).is_file():
        return _checkpoint(folder)
    raise ArtifactError(
        f"{folder.name or folder}: not a model, adapter or bundle folder",
        hint=f"they have `{CONFIG}`, `{ADAPTER}` or `{BUNDLE_MANIFEST}`",
    )


def model_file(folder: Path) -> Path | None:
    """Return the model file of a bundle folder, None for other folders."""
    if not (folder / BUNDLE_MANIFEST).is_file():
        return None
    file = folder / read_manifest(folder).model
    return file if file.is_file() else None


# Bundles


def _bundle(folder: Path) -> FolderContents:
    try:
        manifest = read_manifest(folder)
    except ManifestError as error:
        raise ArtifactError(f"{folder.name}: {error}", hint="package it again") from error

    needs = sum(size for part, size in manifest.needs.items() if part != "runtime_bytes") / 1e6
    signed = (folder / f"{BUNDLE_MANIFEST}.sig").is_file()
    origin = manifest.provenance.get("base") or manifest.provenance.get("recipe")
    rows = [
        ("release", f"{manifest.name} {manifest.version}, {manifest.release_id()[:12]}"),
        ("made for", manifest.target),
        ("engine", f"{manifest.engine.name} {manifest.engine.oldest} or newer"),
        ("context", f"{manifest.context} tokens, answers up to {manifest.max_tokens}"),
        ("memory", f"{needs:.0f} MB beside the runtime" if needs else ""),
        ("documents", _documents(folder, manifest)),
        ("made of", str(origin or "")),
        ("licence", ", ".join(manifest.licences)),
        *ledger.lines(manifest.ledger),
        ("leak", ledger.leak_words(_table(manifest.gate.get("leak")))),
        ("gate", _gate(manifest)),
        ("signature", "beside it; the board checks it" if signed else "none yet"),
        ("files", ", ".join(entry.path for entry in manifest.files)),
    ]

    return _contents(folder, "bundle", rows, list(_bundle_warnings(folder, manifest)))


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _gate(manifest: Manifest) -> str:
    shown = [
        f"{words} {manifest.gate[name]:{form}}"
        for name, words, form in (
            ("mean_kl", "KL", ".4f"),
            ("agreement", "agreement", ".1%"),
            ("general_kl", "on general text KL", ".4f"),
            ("general_agreement", "agreement", ".1%"),
            ("exact_match", "exact", ".1%"),
            ("f1", "F1", ".1%"),
        )
        if isinstance(manifest.gate.get(name), int | float)
    ]

    return ", ".join(shown) or "nothing was measured against a reference"


def _documents(folder: Path, manifest: Manifest) -> str:
    """Return how many passages a bundle answers from, and who words its answers."""
    if not manifest.knowledge:
        return ""
    return f"{_passages(folder / manifest.knowledge)}, {ANSWERS[manifest.answer]}"


def _passages(index: Path) -> str:
    """Return the number of passages of an index in words."""
    address = f"file:{quote(str(index.absolute()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True)) as db:
            count = db.execute("SELECT count(*) FROM passages").fetchone()[0]
    except sqlite3.Error as error:
        return f"`{index.name}` cannot be read: {error}"
    return f"{count:,} passages" if count != 1 else "1 passage"


def _bundle_warnings(folder: Path, manifest: Manifest) -> Iterator[str]:
    for entry in manifest.files:
        file = folder / entry.path
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            yield f"`{entry.path}` is missing"
        elif size != entry.size:
            yield f"`{entry.path}` has {size:,} bytes, the manifest says {entry.size:,}"


# Model and adapter folders


def _checkpoint(folder: Path) -> FolderContents:
    warnings: list[str] = []
    config = _json(folder / CONFIG, warnings)
    text = config.get("text_config")
    inner = text if isinstance(text, dict) else config
    rows = [
        ("kind", " ".join(map(str, _listed(config.get("architectures")))) or _model_type(config)),
        ("size", _stored(folder, warnings)),
        ("shape", _shape(inner)),
        ("context", str(inner.get("max_position_embeddings") or "")),
        ("rope", _rope(inner)),
        *_tokenizer_rows(folder, warnings, needed=True),
    ]
    if (folder / ADAPTER).is_file():
        warnings.append("an adapter lies in the same folder: say which of the two is meant")

    if config.get("quantization_config"):
        warnings.append("its weights are quantized already: recipes need the 16-bit original")

    _warn_if_refused(lambda: _understood(folder), warnings)
    return _contents(folder, "checkpoint", rows, warnings)


def _understood(folder: Path) -> None:
    from toolchain.models import architecture

    with weights.open_weights(folder) as opened:
        architecture.read_architecture(folder, opened)


def _adapter(folder: Path) -> FolderContents:
    warnings: list[str] = []
    config = _json(folder / ADAPTER, warnings)
    targets = config.get("target_modules")
    names = targets if isinstance(targets, str) else ", ".join(map(str, sorted(_listed(targets))))
    rows = [
        ("kind", str(config.get("peft_type", ""))),
        ("base", str(config.get("base_model_name_or_path") or "not said")),
        ("rank", f"{config.get('r')}, alpha {config.get('lora_alpha')}"),
        ("changes", str(names)),
        ("size", _stored(folder, warnings)),
        *_tokenizer_rows(folder, warnings, needed=False),
    ]
    _warn_if_refused(lambda: lora.read_lora(folder), warnings)

    return _contents(folder, "adapter", rows, warnings)


def _contents(folder: Path, kind: str, rows: Rows, warnings: list[str]) -> FolderContents:
    return FolderContents(
        name=folder.resolve().name,
        kind=kind,
        rows=tuple((name, text) for name, text in rows if text),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _warn_if_refused(question: Callable[[], object], warnings: list[str]) -> None:
    """Run a later stage's check; its refusal becomes a warning."""
    try:
        question()
    except ArtifactError as error:
        warnings.append(error.message)


def _json(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        return weights.read_json(path)
    except ArtifactError as error:
        warnings.append(error.message)
        return {}


def _stored(folder: Path, warnings: list[str]) -> str:
    """Return parameters, bytes and types of all safetensors files of a folder."""
    counts: dict[str, int] = {}
    stored = 0
    files = sorted(folder.glob("*.safetensors"))

    for file in files:
        try:
            tensors = weights.read_header(file)
        except ArtifactError as error:
            warnings.append(error.message)
            continue
        for tensor in tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.rows * tensor.columns
            stored += tensor.size_bytes

    pickles = sorted({p.name for ending in ("*.bin", "*.pt", "*.pth") for p in folder.glob(ending)})
    if pickles and not files:
        warnings.append(f"`{pickles[0]}` is a pickle, which can run code when it is loaded")

    if not counts:
        return ""

    types = ", ".join(sorted(counts, key=lambda kind: -counts[kind]))
    return f"{stored / 1e6:.1f} MB, {sum(counts.values()) / 1e6:.2f} M parameters, {types}"


_SHAPE = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "intermediate_size": "inner width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key heads",
    "vocab_size": "tokens of vocabulary",
}


def _shape(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{config[key]} {words}" for key, words in _SHAPE.items() if config.get(key))


def _rope(config: Mapping[str, Any]) -> str:
    theta = config.get("rope_theta")
    scaling = config.get("rope_scaling")
    parts = [f"base {theta:g}" if isinstance(theta, int | float) else ""]
    if isinstance(scaling, dict):
        kind = scaling.get("rope_type", scaling.get("type", ""))
        parts.append(f"{kind} scaling × {scaling.get('factor', '?')}")
    return " ".join(part for part in parts if part)


def _model_type(config: Mapping[str, Any]) -> str:
    return str(config.get("model_type", ""))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _tokenizer_rows(folder: Path, warnings: list[str], *, needed: bool) -> Rows:
    """Return the rows about a folder's tokenizer; an adapter needs none of its own."""
    present = (folder / TOKENIZER).is_file()
    if not present and needed:
        warnings.append(f"no `{TOKENIZER}`")

    file = folder / TOKENIZER_CONFIG
    settings = _json(file, warnings) if file.is_file() else {}
    try:
        template = tokenizer.chat_template(folder, settings)
    except ArtifactError as error:
        template = ""
        if needed:
            warnings.append(error.message)

    rows = [("tokenizer", _vocabulary(folder, warnings) if present else "")]
    if template:
        digest = hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()[:12]
        where = TEMPLATE if (folder / TEMPLATE).is_file() else file.name
        rows.append(("template", f"{digest}  of {where}"))

    return rows


def _vocabulary(folder: Path, warnings: list[str]) -> str:
    fields = _json(folder / TOKENIZER, warnings)
    model = fields.get("model")
    if not isinstance(model, dict):
        return ""
    words = model.get("vocab")
    count = len(words) if isinstance(words, dict | list) else 0
    added = len(_listed(fields.get("added_tokens")))
    return f"{model.get('type', '')}, {count} tokens and {added} added ones"
