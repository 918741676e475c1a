"""The bundle: a folder that travels to boards, complete in itself and checked by device.manifest.

package(ModelFile, Verdict, Target) → Bundle. Every file is named with its sha256 in `manifest.json`; every tensor too.
"""

import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from device.manifest import (
    BUNDLE_MANIFEST,
    GOLDENS,
    TEMPLATE,
    TOKENIZER,
    Engine,
    Manifest,
    file_entry,
    to_bytes,
)
from device.manifest import gguf as gguf_files
from device.manifest import tflite as tflite_files
from toolchain.artifacts import Bundle, Figures, ModelFile, Record, Verdict, Work, keep, write_whole
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.forecast import needs_of
from toolchain.models.template import check_template
from toolchain.opening import Opening, check_room
from toolchain.recipe import PackageSpec
from toolchain.target import Target

COMPUTE_BATCH = 512
"""Tokens evaluated at once on the board: the engine reserves room for their activations and scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from: the chain that the bundle carries."""

    name: str
    recipe: str
    base: str
    licence: str
    opening: Opening = ()
    """What every conversation begins with."""
    records: tuple[Record, ...] = ()
    """Of the stages before, in order."""
    licence_files: tuple[Path, ...] = ()


class _Parameters(Frozen):
    package: PackageSpec
    target: str
    name: str
    base: str
    licence: str
    opening: tuple[dict[str, str], ...]


def package(
    model: ModelFile, verdict: Verdict, target: Target, spec: PackageSpec, origin: Origin, out: Path
) -> Bundle:
    """Put a model file that passed the gate into a bundle for one kind of board."""
    limit = int(model.figures["context"])
    if spec.context > limit:
        raise ConfigError(
            f"package: context: the model has {limit} tokens of context, `{spec.context}` asked"
        )
    if origin.opening:
        check_room(
            "package: context",
            int(verdict.figures["opening_tokens"]),
            spec.max_tokens,
            spec.context,
        )
    parameters = _Parameters(
        package=spec,
        target=target.id,
        name=origin.name,
        base=origin.base,
        licence=origin.licence,
        opening=tuple(dict(message) for message in origin.opening),
    )
    work = Work(
        stage="package",
        inputs={"model": model.digest, "verdict": verdict.digest},
        parameters=parameters,
        tools=("gguf",),
    )
    record, fresh = keep(
        out, work, lambda folder: _fill(folder, model, verdict, target, spec, origin)
    )
    return Bundle(path=out, record=record, fresh=fresh)


def _fill(
    out: Path, model: ModelFile, verdict: Verdict, target: Target, spec: PackageSpec, origin: Origin
) -> Figures:
    check_template((model.path / TEMPLATE).read_text(encoding="utf-8"))
    link_or_copy(model.file, out / model.file.name)
    if model.adapter:
        link_or_copy(model.adapter, out / model.adapter.name)
    for folder, name in ((model.path, TOKENIZER), (model.path, TEMPLATE), (verdict.path, GOLDENS)):
        link_or_copy(folder / name, out / name)
    for licence in origin.licence_files:
        link_or_copy(licence, out / licence.name)
    if model.file.suffix == ".gguf":
        write_whole(out / "Modelfile", modelfile(model, spec, origin.opening))
    write_whole(out / "MODEL_CARD.md", model_card(model, verdict, spec, origin))
    names = sorted(
        p.name for p in out.iterdir() if not p.name.startswith(".") and p.name != "started.json"
    )
    manifest = Manifest(
        name=origin.name,
        version=spec.version,
        counter=spec.counter,
        target=target.id,
        context=spec.context,
        engine=Engine(
            name=str(verdict.figures["engine_name"]), oldest=str(verdict.figures["engine"])
        ),
        model=model.file.name,
        files=tuple(file_entry(out, name) for name in names),
        tensors=tuple(_FORMATS[model.file.suffix].tensor_digests(model.file)),
        kv_type=str(model.figures.get("kv_type", Manifest.kv_type)),
        stop_ids=tuple(model.figures["stop_ids"]),
        max_tokens=spec.max_tokens,
        system="".join(
            message["content"] for message in origin.opening if message["role"] == "system"
        ),
        turns=tuple(dict(message) for message in origin.opening if message["role"] != "system"),
        slots=spec.slots if model.file.suffix == ".gguf" else 1,
        provenance=_provenance(origin),
        licences=(origin.licence,) if origin.licence else (),
        gate={
            name: value
            for name, value in verdict.figures.items()
            if name not in ("arithmetic", "failures")
        },
        arithmetic=str(verdict.figures["arithmetic"]),
        needs=needs(model, spec.context),
        adapter=model.adapter.name if model.adapter else "",
    )
    write_whole(out / BUNDLE_MANIFEST, to_bytes(manifest).decode())
    return {"release": manifest.release_id(), "files": len(names), "needs": manifest.needs}


_FORMATS = {".gguf": gguf_files, ".tflite": tflite_files}
"""Suffix → what knows the form of such a file."""


def needs(model: ModelFile, context: int) -> dict[str, int]:
    """Return the bytes of memory that a model takes on a board at this context."""
    if model.file.suffix == ".gguf":
        found = needs_of(gguf_files.read_header(model.file), context)
        return {part: size for part, size in asdict(found).items() if part.endswith("_bytes")}
    return tflite_needs(model.figures, context)


def tflite_needs(model: Figures, context: int) -> dict[str, int]:
    """Return the same of a TFLite file.

    LiteRT packs the weights for each of its graphs, and each graph has a cache that comes in and one that goes out.
    """
    graphs = 1 + len(model["prefill"])
    return {
        "weights_bytes": int(model["weights_bytes"]) * graphs,
        "kv_bytes": int(model["kv_bytes_per_token"]) * context * 2 * graphs,
        "compute_bytes": COMPUTE_BATCH * int(model["n_vocab"]) * 4 + (16 << 20),
    }


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _provenance(origin: Origin) -> dict[str, Any]:
    stages = [
        {"stage": r.stage, "key": r.key, "digest": r.digest, "tools": r.tools, "seed": r.seed}
        for r in origin.records
    ]
    return {"recipe": origin.recipe, "base": f"{origin.base}{_weights(origin)}", "stages": stages}


def _weights(origin: Origin) -> str:
    """Return what the base's weights were, where they came from a quantized file."""
    found = next((r.figures for r in origin.records if r.stage == "base"), {})
    return f" ({found['quantization']})" if found else ""


def modelfile(model: ModelFile, spec: PackageSpec, opening: Opening) -> str:
    """Return the Modelfile with which Ollama serves the same file; its template comes from the GGUF itself."""
    lines = [
        f"FROM ./{model.file.name}",
        *([f"ADAPTER ./{model.adapter.name}"] if model.adapter else []),
        f"PARAMETER num_ctx {spec.context}",
        f"PARAMETER num_predict {spec.max_tokens}",
        "PARAMETER temperature 0",
        *(_instruction(message["role"], message["content"]) for message in opening),
    ]
    return "\n".join(lines) + "\n"


_CLOSING = re.compile(r'"""(?=\s*\n)')


def _instruction(role: str, text: str) -> str:
    """Return a message as a Modelfile gives it.

    Ollama's parser (parser/parser.go) knows no escapes and takes a text as ended where a line of it ends in three double quotes:
    there they become single ones.
    """
    name, text = "SYSTEM" if role == "system" else f"MESSAGE {role}", _CLOSING.sub("'''", text)
    return f'{name} """{text}"""'


def model_card(model: ModelFile, verdict: Verdict, spec: PackageSpec, origin: Origin) -> str:
    """Return the card: what the model is, what it was made of, and what the gate measured."""
    file, measured = model.figures, verdict.figures
    rows = (
        ("held-out questions", f"{measured['questions']}"),
        ("exact match", f"{measured['exact_match']:.1%}"),
        ("token F1", f"{measured['f1']:.1%}"),
        ("answers that end by themselves", f"{measured['eos_rate']:.1%}"),
        ("mean KL to the teacher", f"{measured['mean_kl']:.4f} nats"),
        ("same next token as the teacher", f"{measured['agreement']:.1%}"),
    )
    lines = (
        "---",
        f"license: {origin.licence or 'unknown'}",
        f"library_name: {model.file.suffix[1:]}",
        "---",
        f"# {origin.name} {spec.version}",
        "",
        f"- file: `{model.file.name}`, {file['size_bytes']:,} bytes, {file['real_bpw']:.2f} bits per weight",
        *([f"- adapter: `{model.adapter.name}`, added while it runs"] if model.adapter else []),
        f"- base: {origin.base or 'trained from scratch'}{_weights(origin)}",
        f"- stages: {' → '.join(record.stage for record in origin.records)}",
        f"- context: {spec.context} tokens",
        "",
        "| measured with the device runtime | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    )
    return "\n".join(lines) + "\n"
