"""Checkpoint → one .gguf, in one streaming pass: rows are read, quantized and written in blocks.

Between `tune` or `distill` and `evaluate`. The bytes of the tensors are those of llama.cpp's
converter and quantizer in sequence, without the file between them. Every reason to refuse a model
is checked before the first weight is read.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain import artifacts
from toolchain.artifacts import RESUME, Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.errors import ArtifactError, ConfigError
from toolchain.figures import ModelFigures
from toolchain.files import whole_file
from toolchain.models import tokenizer
from toolchain.models.architecture import Model, read_architecture
from toolchain.models.gguf_file import Slot, write_header
from toolchain.models.lora import Lora, Merged, open_lora
from toolchain.models.tokenizer import TEMPLATE_KEY, Vocabulary
from toolchain.models.tokenizer_proof import prove
from toolchain.models.weights import Weights, check_model_folder, open_weights
from toolchain.progress import Reporter
from toolchain.quantize.companions import size_in_words, write_companions
from toolchain.quantize.gguf import choice as gguf_choice
from toolchain.quantize.gguf.adapter import convert_adapter
from toolchain.quantize.gguf.choice import Decision, Question
from toolchain.quantize.gguf.metadata import ModelLabel as ModelLabel
from toolchain.quantize.gguf.metadata import file_metadata, file_name, file_stem
from toolchain.quantize.gguf.projector import sees, write_projector
from toolchain.quantize.gguf.schemes import Choice
from toolchain.quantize.gguf.write import Treatment, write_tensors
from toolchain.quantize.learned import importance
from toolchain.quantize.learned.budget import PREFIX
from toolchain.quantize.learned.importance import Matrix
from toolchain.recipe import QuantizeSpec
from toolchain.training.adapters import checkpoint_folder

Conversation = Mapping[str, Any]
ADAPTER, IMPORTANCE = "adapter.gguf", "importance.gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """Further inputs of quantization, besides the checkpoint."""

    importance: Path | None = None
    """An importance matrix, ours or llama.cpp's."""
    calibration: tuple[str, ...] = ()
    """Texts to collect an importance matrix on, if none is given."""
    lessons: tuple[Conversation, ...] = ()
    """Conversations that codes may be learned on."""
    trials: tuple[Conversation, ...] = ()
    """Conversations to compare candidates on; neither learned on nor asked by the gate."""
    trials_from: str = ""
    """Origin of the trials in words, for the record."""
    seed: int = 0

    def digests(self) -> dict[str, str]:
        """Return the digests of the additions that change the result."""
        digests = {"importance": artifacts.digest(self.importance)} if self.importance else {}
        if self.calibration and not self.importance:
            digests["calibration"] = _digest("\0".join(self.calibration))
        conversations = {"lessons": self.lessons, "trials": self.trials}
        return digests | {
            name: _digest(json.dumps(rows, sort_keys=True))
            for name, rows in conversations.items()
            if rows
        }

    def check_for(self, spec: QuantizeSpec) -> None:
        """Raise ConfigError for settings of a spec whose text or conversations are missing."""
        if spec.importance and not (self.importance or self.calibration):
            raise ConfigError(
                "quantize: `importance` is set, but there is no text to collect it on",
                hint="stage `ingest` gives the text",
            )
        if spec.distill and not self.lessons:
            raise ConfigError(
                "quantize: distill: there are no conversations to learn on",
                hint="stage `ingest` gives them",
            )

    def only_for(self, spec: QuantizeSpec) -> "Additions":
        """Return the additions that a spec uses; others must not cause the work to be redone."""
        used = self if spec.importance else replace(self, importance=None, calibration=())
        if spec.distill:
            return used
        used = replace(used, lessons=(), seed=0)
        return used if spec.scheme.startswith(PREFIX) else replace(used, trials=(), trials_from="")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


NOTHING = Additions()


class _Parameters(Frozen):
    spec: QuantizeSpec
    label: ModelLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """Settings, label and additions of one file."""

    spec: QuantizeSpec
    label: ModelLabel
    additions: Additions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Everything that is decided before the first weight is written."""

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
    """Write the checkpoint as a GGUF file with its companions; raise ArtifactError if refused.

    Its adapter is merged while the weights are read, or stays unmerged in a file of its own.
    """
    gguf_choice.check(spec)
    check_model_folder(checkpoint.path)
    additions.check_for(spec)
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

    request = _Request(spec=spec, label=label, additions=additions)
    record, fresh = keep(
        out,
        work,
        lambda folder: ModelFigures.of(_build(checkpoint, request, folder, report)),
        ModelFigures,
    )
    return ModelFile(path=out, record=record, fresh=fresh)


def _build(checkpoint: Checkpoint, request: _Request, out: Path, report: Reporter) -> Figures:
    with checkpoint_folder(checkpoint) as folder:
        if not (checkpoint.adapter and request.spec.adapter == "beside"):
            return _build_file(folder, checkpoint.adapter, request, out, report)
        figures = _build_file(checkpoint.path, None, request, out, report)
        vocabulary = _same_vocabulary(
            checkpoint.path, folder, checkpoint.adapter.name, figures["n_vocab"]
        )
        write_companions(folder, vocabulary.template, out)
        file = convert_adapter(checkpoint.adapter, checkpoint.path, out / ADAPTER)

    size = file.stat().st_size
    report.note(f"{ADAPTER}: {size / 1e6:.1f} MB, which run beside {figures['file']}")
    return figures | {
        "adapter": checkpoint.adapter.name,
        "adapter_file": ADAPTER,
        "weights_bytes": figures["weights_bytes"] + size,
    }


def _same_vocabulary(base: Path, adapted: Path, adapter: str, rows: int) -> Vocabulary:
    """Return the vocabulary that an adapter was trained with.

    Raises ArtifactError if it is not the base's; templates may differ.
    """
    theirs, ours = (tokenizer.read_vocabulary(folder, rows) for folder in (base, adapted))
    if ours.metadata | {TEMPLATE_KEY: theirs.template} != theirs.metadata:
        hint = 'merge it: `quantize.adapter = "merged"`'
        raise ArtifactError(
            f"adapter {adapter}: brings another tokenizer than its base, "
            "which cannot serve beside it",
            hint=hint,
        )
    return ours


def _build_file(
    folder: Path, adapter: Path | None, request: _Request, out: Path, report: Reporter
) -> Figures:
    scheme = request.spec.scheme
    additions = request.additions

    with open_weights(folder) as weights:
        model = read_architecture(folder, weights)
        lora = fitting(adapter, model, weights, folder.name)
        vocabulary = tokenizer.read_vocabulary(folder, model.sizes["vocab"])
        weighed = bool(additions.importance or additions.calibration)
        choices = gguf_choice.named(scheme, model, weighed=weighed)

        fallbacks = _fallbacks(choices, model)
        caveats = [note for note in (vocabulary.structure.caveat, *model.caveats) if note]
        for note in (*_describe_fallbacks(scheme, fallbacks), *caveats):
            report.note(note)
        compared = prove(folder, vocabulary, model.family.name)
        report.note(f"tokenizer: {compared} tokens of mixed text are the same in llama.cpp")

        matrix = importance_of(additions, folder, model, lora, out, report)
        question = Question(
            folder=folder,
            model=model,
            lora=lora,
            matrix=matrix,
            spec=request.spec,
            lessons=additions.lessons,
            trials=additions.trials,
            seed=additions.seed,
            metadata=file_metadata(request.label, model, vocabulary, matrix),
        )
        decision = gguf_choice.decide(question, out / RESUME, report)

        plan = _Plan(
            scheme=scheme,
            label=request.label,
            model=model,
            vocabulary=vocabulary,
            matrix=matrix,
            decision=decision,
        )
        figures = _write(plan, Merged(weights, lora) if lora else weights, out, report)

    write_companions(folder, vocabulary.template, out)
    figures |= _projector(folder, request, out, report)
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


def _projector(folder: Path, request: _Request, out: Path, report: Reporter) -> Figures:
    """Write the file that reads pictures, of a model that sees; return its figures."""
    if not sees(folder):
        return {}
    label = request.label
    made = write_projector(folder, file_stem(label), request.spec.projector, out, report)
    return {
        "projector_file": made.file,
        "projector_bytes": made.weights_bytes,
        "picture_tokens": made.tokens,
    }


def fitting(adapter: Path | None, model: Model, weights: Weights, base: str) -> Lora | None:
    """Return the checked adapter to merge while the weights are read; None if there is none."""
    if adapter is None:
        return None
    lora = open_lora(adapter, weights, base)
    for weight in lora.deltas.keys() - {source.origin for source in model.tensors}:
        raise ArtifactError(
            f"adapter {lora.name}: changes `{weight}`, which has no place in the model file"
        )
    return lora


def importance_of(
    additions: Additions, folder: Path, model: Model, lora: Lora | None, out: Path, report: Reporter
) -> Matrix | None:
    """Return how much the columns of each matrix count; None where nothing says so."""
    if additions.importance:
        return importance.load(additions.importance, model)
    if not additions.calibration:
        return None
    matrix = importance.collect(folder, model, additions.calibration, report, lora=lora)
    importance.save(matrix, out / IMPORTANCE)
    return matrix


def _write(plan: _Plan, weights: Weights | Merged, out: Path, report: Reporter) -> Figures:
    model = plan.model
    kinds = plan.decision.kinds
    tensors = {source.name: (kinds[source.name], source.shape) for source in model.tensors}
    file = out / file_name(plan.label, plan.scheme, model, "gguf")
    metadata = file_metadata(
        plan.label, model, plan.vocabulary, plan.matrix, plan.decision.file_type
    )
    treatment = Treatment(
        importance=plan.matrix.weights() if plan.matrix else {}, ready=plan.decision.ready
    )

    with whole_file(file) as part:
        slots = write_header(part, metadata, tensors)
        planned = [(source, slots[source.name]) for source in model.tensors]
        write_tensors(part, weights, planned, treatment, report)

    figures = _figures(file, plan, slots)
    report.note(size_in_words(figures, plan.scheme))

    return figures


def _fallbacks(choices: Mapping[str, Choice], model: Model) -> list[dict[str, Any]]:
    return [
        {
            "tensor": source.name,
            "row": source.shape[-1],
            "wanted": choice.requested.name,
            "type": choice.type.name,
        }
        for source in model.tensors
        if (choice := choices.get(source.name)) and choice.type != choice.requested
    ]


def _describe_fallbacks(scheme: str, fallbacks: list[dict[str, Any]]) -> Iterator[str]:
    """Yield one line about the fallbacks, if there are any."""
    if not fallbacks:
        return

    kinds = sorted({(entry["row"], entry["wanted"], entry["type"]) for entry in fallbacks})
    each = (
        f"rows of {row} do not fit {wanted}'s blocks, {used} instead" for row, wanted, used in kinds
    )
    yield f"{scheme}: {len(fallbacks)} tensors fall back: {'; '.join(each)}"


def _figures(file: Path, plan: _Plan, slots: Mapping[str, Slot]) -> Figures:
    model = plan.model
    nominal = plan.decision.nominal_bpw
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
