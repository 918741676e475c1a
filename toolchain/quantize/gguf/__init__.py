"""Checkpoint → one .gguf, in one streaming pass: rows are read, quantized and written where they belong, block by block.

Between `tune` or `distill` and `evaluate`. The bytes of the tensors are those of llama.cpp's converter and quantizer run one after
the other, without the file between them. Everything that could refuse the model is asked before the first weight is read.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain import artifacts
from toolchain.artifacts import RESUME, Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.errors import ArtifactError, ConfigError
from toolchain.figures import ModelFigures
from toolchain.models import architecture as gguf_model
from toolchain.models import tokenizer as gguf_tokenizer
from toolchain.models.architecture import Model
from toolchain.models.gguf_file import Metadata, Slot, whole_file, write_header
from toolchain.models.lora import Lora, Merged, open_lora
from toolchain.models.tokenizer import TEMPLATE, TEMPLATE_KEY, Vocabulary
from toolchain.models.weights import Weights, check_model_folder, open_weights
from toolchain.progress import Reporter
from toolchain.quantize.gguf import choice as gguf_choice
from toolchain.quantize.gguf.adapter import convert_adapter
from toolchain.quantize.gguf.choice import Decision, Question
from toolchain.quantize.gguf.schemes import Choice
from toolchain.quantize.gguf.write import Treatment, write_tensors
from toolchain.quantize.learned import importance
from toolchain.quantize.learned.budget import PREFIX
from toolchain.quantize.learned.importance import Matrix
from toolchain.recipe import QuantizeSpec
from toolchain.training.adapters import dressed
from toolchain.training.checkpoints import GENERATION_CONFIG

Conversation = Mapping[str, Any]
ADAPTER, IMPORTANCE = "adapter.gguf", "importance.gguf"
QUANTIZATION_VERSION = 2
"""`general.quantization_version` (ggml.h, GGML_QNT_VERSION)."""


class ModelLabel(Frozen):
    """What the file says of its origin; empty fields are left out."""

    name: str
    basename: str = ""
    finetune: str = ""
    version: str = ""
    licence: str = ""
    base_model: str = ""
    """Hub id or name of the model that this one was made from."""
    base_weights: str = ""
    """What the base's weights were, where they came from a quantized file."""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """What a checkpoint is quantized with besides itself."""

    importance: Path | None = None
    """An importance matrix, ours or llama.cpp's."""
    calibration: tuple[str, ...] = ()
    """Text to collect an importance matrix on, where none is given."""
    lessons: tuple[Conversation, ...] = ()
    """Conversations that codes may be learned on."""
    trials: tuple[Conversation, ...] = ()
    """Conversations to compare candidates on: nothing is learned on them, and the gate does not ask them."""
    trials_from: str = ""
    """Where these come from, in words, for the record."""
    seed: int = 0

    def digests(self) -> dict[str, str]:
        """Return what these change in the result, by digest."""
        digests = {"importance": artifacts.digest(self.importance)} if self.importance else {}
        if self.calibration and not self.importance:
            digests["calibration"] = _digest("\0".join(self.calibration))
        conversations = {"lessons": self.lessons, "trials": self.trials}
        return digests | {
            name: _digest(json.dumps(rows, sort_keys=True))
            for name, rows in conversations.items()
            if rows
        }

    def only_for(self, spec: QuantizeSpec) -> "Additions":
        """Return what a spec asks for; the rest must not decide whether the work is done again."""
        kept = self if spec.importance else replace(self, importance=None, calibration=())
        if spec.distill:
            return kept
        kept = replace(kept, lessons=(), seed=0)
        return kept if spec.scheme.startswith(PREFIX) else replace(kept, trials=(), trials_from="")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


NOTHING = Additions()


class _Parameters(Frozen):
    spec: QuantizeSpec
    label: ModelLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is asked for."""

    spec: QuantizeSpec
    label: ModelLabel
    additions: Additions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """All that is known before the first weight is read."""

    scheme: str
    label: ModelLabel
    model: Model
    vocabulary: Vocabulary
    matrix: Matrix | None
    decision: Decision


def quantize(
    checkpoint: Checkpoint,
    spec: QuantizeSpec,
    label: ModelLabel,
    out: Path,
    report: Reporter,
    additions: Additions = NOTHING,
) -> ModelFile:
    """Write the checkpoint as a GGUF file, tokenizer and chat template beside it; raise ArtifactError for what is refused.

    Its adapter is merged while the weights are read, or put beside the base in a file of its own.
    """
    gguf_choice.check(spec)
    check_model_folder(checkpoint.path)
    if spec.importance and not (additions.importance or additions.calibration):
        raise ConfigError(
            "quantize: `importance` is set, but there is no text to collect it on",
            hint="stage `ingest` gives the text",
        )
    additions = additions.only_for(spec)
    work = Work(
        stage="quantize",
        inputs={"checkpoint": checkpoint.digest, **additions.digests()},
        parameters=_Parameters(spec=spec, label=label),
        seed=additions.seed,
        tools=("gguf", "llama-cpp-python"),
    )
    if spec.adapter == "beside" and not checkpoint.adapter:
        raise ConfigError("quantize: adapter: `beside`, but there is no adapter")
    wish = _Wish(spec=spec, label=label, additions=additions)
    record, fresh = keep(
        out,
        work,
        lambda folder: ModelFigures.of(_build(checkpoint, wish, folder, report)),
        ModelFigures,
    )
    return ModelFile(path=out, record=record, fresh=fresh)


def _build(checkpoint: Checkpoint, wish: _Wish, out: Path, report: Reporter) -> Figures:
    with dressed(checkpoint) as folder:
        if not (checkpoint.adapter and wish.spec.adapter == "beside"):
            return _build_file(folder, checkpoint.adapter, wish, out, report)
        figures = _build_file(checkpoint.path, None, wish, out, report)
        vocabulary = _same_vocabulary(
            checkpoint.path, folder, checkpoint.adapter.name, figures["n_vocab"]
        )
        _write_companions(folder, vocabulary, out)
        file = convert_adapter(checkpoint.adapter, checkpoint.path, out / ADAPTER)
    size = file.stat().st_size
    report.note(f"{ADAPTER}: {size / 1e6:.1f} MB, which run beside {figures['file']}")
    return figures | {
        "adapter": checkpoint.adapter.name,
        "adapter_file": ADAPTER,
        "weights_bytes": figures["weights_bytes"] + size,
    }


def _same_vocabulary(base: Path, adapted: Path, adapter: str, rows: int) -> Vocabulary:
    """Return the vocabulary that an adapter was trained with; raise ArtifactError if it is not the base's, templates aside."""
    theirs, ours = (gguf_tokenizer.understand(folder, rows) for folder in (base, adapted))
    if ours.metadata | {TEMPLATE_KEY: theirs.template} != theirs.metadata:
        hint = 'merge it: `quantize.adapter = "merged"`'
        raise ArtifactError(
            f"adapter {adapter}: brings another tokenizer than its base, which cannot serve beside it",
            hint=hint,
        )
    return ours


def _build_file(
    folder: Path, adapter: Path | None, wish: _Wish, out: Path, report: Reporter
) -> Figures:
    scheme, label, additions = wish.spec.scheme, wish.label, wish.additions
    with open_weights(folder) as weights:
        model = gguf_model.understand(folder, weights)
        lora = fitting(adapter, model, weights, folder.name)
        vocabulary = gguf_tokenizer.understand(folder, model.sizes["vocab"])
        choices = gguf_choice.named(
            scheme, model, weighed=bool(additions.importance or additions.calibration)
        )
        fallbacks, caveats = (
            _fallbacks(choices, model),
            [note for note in (vocabulary.structure.caveat, *model.caveats) if note],
        )
        for note in [_describe_fallbacks(scheme, fallbacks)] * bool(fallbacks) + caveats:
            report.note(note)
        compared = gguf_tokenizer.prove(folder, vocabulary, model.family.name)
        report.note(f"tokenizer: {compared} tokens of mixed text are the same in llama.cpp")
        matrix = _importance(additions, folder, model, lora, out, report)
        metadata = _metadata(label, model, vocabulary, matrix)
        question = Question(
            folder=folder,
            model=model,
            lora=lora,
            matrix=matrix,
            spec=wish.spec,
            lessons=additions.lessons,
            trials=additions.trials,
            seed=additions.seed,
            metadata=metadata,
        )
        decision = gguf_choice.decide(question, out / RESUME, report)
        plan = _Plan(
            scheme=scheme,
            label=label,
            model=model,
            vocabulary=vocabulary,
            matrix=matrix,
            decision=decision,
        )
        figures = _write(plan, Merged(weights, lora) if lora else weights, out, report)
    _write_companions(folder, vocabulary, out)
    more = {
        "tokens_compared": compared,
        "fallbacks": fallbacks,
        "caveats": caveats,
        "adapter": lora.name if lora else "",
    }
    if additions.trials:
        count = len(additions.trials)
        more["trials"] = {"conversations": count, "from": additions.trials_from}
    return figures | more


def fitting(adapter: Path | None, model: Model, weights: Weights, base: str) -> Lora | None:
    """Return the adapter that is merged while the weights are read, checked against them; None where there is none."""
    if adapter is None:
        return None
    lora = open_lora(adapter, weights, base)
    for weight in lora.deltas.keys() - {source.origin for source in model.tensors}:
        raise ArtifactError(
            f"adapter {lora.name}: changes `{weight}`, which has no place in the model file"
        )
    return lora


def _importance(
    additions: Additions, folder: Path, model: Model, lora: Lora | None, out: Path, report: Reporter
) -> Matrix | None:
    if additions.importance:
        return importance.load(additions.importance, model)
    if not additions.calibration:
        return None
    matrix = importance.collect(folder, model, additions.calibration, report, lora=lora)
    importance.save(matrix, out / IMPORTANCE)
    return matrix


def _write(plan: _Plan, weights: Weights | Merged, out: Path, report: Reporter) -> Figures:
    model, kinds = plan.model, plan.decision.kinds
    tensors = {source.name: (kinds[source.name], source.shape) for source in model.tensors}
    file = out / file_name(plan.label, plan.scheme, model, "gguf")
    with whole_file(file) as part:
        slots = write_header(
            part,
            _metadata(plan.label, model, plan.vocabulary, plan.matrix, plan.decision.file_type),
            tensors,
        )
        treatment = Treatment(
            importance=plan.matrix.weights() if plan.matrix else {}, ready=plan.decision.ready
        )
        write_tensors(
            part,
            weights,
            [(source, slots[source.name]) for source in model.tensors],
            treatment,
            report,
        )
    figures = _figures(file, plan, slots)
    size, nominal, real = figures["size_bytes"] / 1e6, figures["nominal_bpw"], figures["real_bpw"]
    report.note(
        f"{figures['file']}: {size:.1f} MB; {plan.scheme} has nominally {nominal:.2f} bits per weight, here {real:.2f}"
    )
    return figures


def _write_companions(folder: Path, vocabulary: Vocabulary, out: Path) -> None:
    (out / TEMPLATE).write_text(vocabulary.template, encoding="utf-8")
    gguf_tokenizer.write_tokenizer(folder, out)
    if (folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(folder / GENERATION_CONFIG, out / GENERATION_CONFIG)


def _fallbacks(choices: Mapping[str, Choice], model: Model) -> list[dict[str, Any]]:
    return [
        {
            "tensor": source.name,
            "row": source.shape[-1],
            "wanted": choice.wanted.name,
            "type": choice.type.name,
        }
        for source in model.tensors
        if (choice := choices.get(source.name)) and choice.type != choice.wanted
    ]


def _describe_fallbacks(scheme: str, fallbacks: list[dict[str, Any]]) -> str:
    kinds = sorted({(entry["row"], entry["wanted"], entry["type"]) for entry in fallbacks})
    each = (
        f"rows of {row} do not fit {wanted}'s blocks, {used} instead" for row, wanted, used in kinds
    )
    return f"{scheme}: {len(fallbacks)} tensors fall back: {'; '.join(each)}"


def _metadata(
    label: ModelLabel,
    model: Model,
    vocabulary: Vocabulary,
    matrix: Matrix | None,
    file_type: int = 0,
) -> Metadata:
    marked = vocabulary.name_mark in label.name.lower()
    general = {
        "type": "model",
        "name": label.name if marked else f"{label.name} ({vocabulary.name_mark})",
        "basename": label.basename,
        "finetune": label.finetune,
        "version": label.version,
        "size_label": _size_label(model),
        "license": label.licence,
        "description": label.description,
    }
    return {
        "general.architecture": model.family.name,
        **{f"general.{key}": value for key, value in general.items() if value},
        **_base_model(label.base_model, label.base_weights),
        **model.metadata,
        **vocabulary.metadata,
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": file_type,
        **(matrix.provenance() if matrix else {}),
    }


def _base_model(base: str, weights: str) -> Metadata:
    organization, _, name = base.rpartition("/")
    if not base:
        return {}
    found = {
        "general.base_model.count": 1,
        "general.base_model.0.name": name,
        "general.base_model.0.organization": organization,
        "general.base_model.0.description": weights,
    }
    return {key: value for key, value in found.items() if value}


def _size_label(model: Model) -> str:
    from gguf import size_label

    return str(size_label(model.parameters, 0, 0, 0))


def file_name(label: ModelLabel, scheme: str, model: Model, suffix: str) -> str:
    """Return BaseName-SizeLabel-FineTune-Version-Encoding.suffix (ggml docs/gguf.md, naming convention)."""
    version = f"v{label.version}" if label.version[:1].isdigit() else label.version
    parts = (label.basename or label.name, _size_label(model), label.finetune, version, scheme)
    return (
        "-".join(re.sub(r"[^\w.+]+", "-", part).strip("-") for part in parts if part) + f".{suffix}"
    )


def _figures(file: Path, plan: _Plan, slots: Mapping[str, Slot]) -> Figures:
    model, nominal = plan.model, plan.decision.nominal_bpw
    stored = sum(slot.size_bytes for slot in slots.values())
    return {
        "file": file.name,
        "scheme": plan.scheme,
        "size_bytes": file.stat().st_size,
        "nominal_bpw": nominal,
        "real_bpw": round(stored * 8 / model.parameters, 4),
        "parameters": model.parameters,
        "context": model.metadata[f"{model.family.name}.context_length"],
        "stop_ids": list(plan.vocabulary.stop_ids),
        "weights_bytes": stored,
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "n_vocab": model.sizes["vocab"],
        "importance_chunks": plan.matrix.chunks if plan.matrix else 0,
        **plan.decision.figures,
    }
