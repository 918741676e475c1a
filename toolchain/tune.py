"""LoRA on a base, merged into a plain checkpoint; and the merge alone, for a ready adapter.

tune(Checkpoint, Dataset) → Checkpoint. The base is frozen: what is learned is the adapter, kept
under `out`/adapter.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint, Dataset, Work, digest, write_jsonl
from toolchain.config import Frozen
from toolchain.errors import ArtifactError, ConfigError
from toolchain.figures import FLAT, StageFigures, TrainFigures
from toolchain.general import GENERAL, passages
from toolchain.models.adapter_config import check_base_name
from toolchain.models.names import GENERATION_CONFIG
from toolchain.models.weights import open_weights, read_json
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import TuneSpec
from toolchain.tool_use import said

if TYPE_CHECKING:
    from toolchain.training.examples import Example

TOOLS = ("accelerate", "peft", "safetensors", "torch", "transformers")
ADAPTER = "adapter"
ANSWERS = "answers.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamFigures(StageFigures):
    """What one model scored; None where nothing was held out to ask."""

    questions: int
    exact_match: float | None
    f1: float | None
    held_out_loss: float | None
    """Nats per token of held-out answers."""
    general_nats_per_byte: float | None = None
    """Loss on general text; None in a record of an earlier version."""
    tool_questions: int | None = None
    """Questions with tools; None where no call is expected."""
    tool_accuracy: float | None = None
    """Share of their answers with exactly the expected calls, without the grammar of the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeError(StageFigures):
    """Share of an adapter's changes that rounding loses, by the type of the merged weights."""

    rounded: float
    float32: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFigures(StageFigures):
    """What a merge changed."""

    merged_tensors: int
    dtypes: list[str]
    """Types of the base's weights."""
    merge_error: MergeError | None = None
    """None for a base in float32, which loses nothing."""
    written_as: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneFigures(StageFigures):
    """What was learned, and what base and tuned model scored."""

    trainable_parameters: int
    total_parameters: int
    conversations: int
    too_long: int
    """Conversations that were left out."""
    base: ExamFigures
    merge: MergeFigures = field(metadata=FLAT)
    training: TrainFigures = field(metadata=FLAT)
    tuned: ExamFigures = field(metadata=FLAT)


class _MergeSpec(Frozen):
    """A merge has no parameters beside its inputs."""

    base_name: str


def tune(
    base: Checkpoint,
    dataset: Dataset,
    spec: TuneSpec,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    general: Path = GENERAL,
) -> Checkpoint:
    """Train a LoRA adapter on the conversations of `dataset`; write the merged checkpoint to `out`.

    Figures: exact counts of trainable and all parameters, speed, memory, and before (`base`) and
    after: exact match, F1 and loss on the held-out conversations, and the loss on `general` text,
    which says what was forgotten. `answers.jsonl` has the answers of both side by side.
    """
    exam = _Exam(dataset, spec, tuple(passages(general)))
    inputs = {
        "base": base.digest,
        "dataset": dataset.digest,
        "general": hashlib.sha256("\0".join(exam.general).encode()).hexdigest(),
    }
    work = Work(stage="tune", inputs=inputs, parameters=spec, seed=seed, tools=TOOLS)
    record, fresh = keep_together(
        out,
        work,
        lambda folder: _build(base.path, exam, folder, speaking(report), seed),
        TuneFigures,
    )
    return Checkpoint(path=out, record=record, fresh=fresh)


def merge(
    base: Checkpoint, adapter: Path, out: Path, report: Reporter, *, base_name: str = ""
) -> Checkpoint:
    """Merge a ready PEFT adapter onto `base`.

    Raise ArtifactError for an adapter of another base and for a quantised base.

    `base_name` is what the recipe calls the base; with it the name in the adapter's configuration
    is compared too.
    """
    inputs = {"base": base.digest, "adapter": digest(adapter)}
    work = Work(
        stage="merge",
        inputs=inputs,
        parameters=_MergeSpec(base_name=base_name),
        tools=("safetensors", "torch"),
    )

    def build(folder: Path) -> MergeFigures:
        if base_name:
            check_base_name(adapter, base_name)
        return _merge_folders(base.path, adapter, folder, report)

    record, fresh = keep_together(out, work, build, MergeFigures)
    return Checkpoint(path=out, record=record, fresh=fresh)


@dataclass(frozen=True, slots=True)
class _Exam:
    """What base and tuned model are measured on, and what is learned."""

    dataset: Dataset
    spec: TuneSpec
    general: tuple[str, ...]

    def asked(self) -> list[dict[str, Any]]:
        """Return the held-out conversations that are answered."""
        return self.dataset.held_out()[: self.spec.questions]

    def take(
        self, model: Any, tokenizer: Any, report: Reporter, name: str
    ) -> tuple[ExamFigures, list[str]]:
        """Return a model's scores and losses in float32, and its answers."""
        from toolchain.training.answers import (
            ask,
            call_scores,
            in_float32,
            loss_per_byte,
            loss_per_token,
            scores,
        )

        asked = self.asked()
        with in_float32(model):
            answers = ask(model, tokenizer, asked, report, name=name)
            held_out = _that_fit(tokenizer, asked, self.spec.max_tokens)
            losses = {
                "held_out_loss": loss_per_token(model, held_out),
                "general_nats_per_byte": loss_per_byte(model, tokenizer, self.general),
            }
        scored = scores(asked, answers) | call_scores(tokenizer, asked, answers)
        return ExamFigures.of(scored | losses), answers


def _build(base: Path, exam: _Exam, out: Path, report: Reporter, seed: int) -> TuneFigures | None:
    from toolchain.models.checkpoints import load_model, load_tokenizer
    from toolchain.training.adapters import save_adapter
    from toolchain.training.examples import conversations
    from toolchain.training.loop import course, train
    from toolchain.training.objectives import AnswerLoss

    tokenizer, model = load_tokenizer(base), load_model(base)
    spec = exam.spec
    examples, too_long = conversations(tokenizer, exam.dataset.train(), spec.max_tokens)
    first = exam.take(model, tokenizer, report, "ask the base") if is_main() else None
    adapted = _with_lora(model, spec, seed)
    trainable, total = adapted.get_nb_trainable_parameters()
    report.note(
        f"trainable: {trainable:,} of {total:,} parameters ({trainable / total:.2%}), "
        f"{len(examples)} conversations"
    )
    training = train(
        AnswerLoss(adapted.get_base_model()),
        examples,
        course("tune", spec, examples, seed),
        out / "resume",
        report,
    )
    if first is None:
        return None
    save_adapter(adapted, out / ADAPTER, base=base.name)
    merged = _merge_folders(base, out / ADAPTER, out, report)
    last = exam.take(load_model(out), tokenizer, report, "ask the tuned model")
    _write_answers(exam.asked(), first[1], last[1], out / ANSWERS)
    report.note(_summary(first[0], last[0]))
    return TuneFigures(
        trainable_parameters=trainable,
        total_parameters=total,
        conversations=len(examples),
        too_long=too_long,
        base=first[0],
        merge=merged,
        training=TrainFigures.of(training),
        tuned=last[0],
    )


def _that_fit(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_tokens: int
) -> "list[Example]":
    """Return the conversations that are not too long, none if all are."""
    from toolchain.training.examples import conversations

    # That all are too long is no reason to lose a training that is done.
    with suppress(ArtifactError):
        return conversations(tokenizer, rows, max_tokens)[0]
    return []


def _write_answers(
    asked: Sequence[Mapping[str, Any]], first: Sequence[str], last: Sequence[str], file: Path
) -> None:
    """Write what base and tuned model answer to the same questions."""
    rows = [
        {
            "question": said(row["messages"][-2]),
            "expected": said(row["messages"][-1]),
            "base": base,
            "tuned": tuned,
        }
        for row, base, tuned in zip(asked, first, last, strict=True)
    ]
    write_jsonl(file, rows)


def _with_lora(model: Any, spec: TuneSpec, seed: int) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(spec.target_modules),
        layers_to_transform=_last_layers(model, spec.layers),
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            # peft 0.21 calls a property of transformers 5 by its old name
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
            return get_peft_model(model, config)
    except ValueError as error:
        linear = {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        hint = f"this model has {', '.join(sorted(linear - {'lm_head'}))}"
        raise ConfigError(
            f"tune: target_modules: none of {', '.join(spec.target_modules)} is in the model",
            hint=hint,
        ) from error


def _last_layers(model: Any, count: int) -> list[int] | None:
    """Return the numbers of the last layers; None for all."""
    if not count:
        return None
    layers = model.config.get_text_config().num_hidden_layers
    if count > layers:
        raise ConfigError(f"tune: layers: `{count}`, but the model has {layers}")
    return list(range(layers - count, layers))


def _merge_folders(base: Path, adapter: Path, out: Path, report: Reporter) -> MergeFigures:
    """Write the merged model, with the base's configuration and the adapter's tokenizer."""
    from toolchain.models.checkpoints import carry, refuse_quantised
    from toolchain.training.adapters import carry_tokenizer, merge_into

    refuse_quantised(base)
    with open_weights(base) as weights:
        dtypes = sorted({tensor.dtype for tensor in weights.tensors.values()})
    touched, error = merge_into(base, adapter, out)
    carry(base, out, "config.json", GENERATION_CONFIG)
    if error.whole:
        _say_float32(out / "config.json")
    carry_tokenizer(base, adapter, out)
    _check_vocabulary(adapter, out)
    note = f"merged {touched} tensors onto {', '.join(dtypes)} weights"
    if dtypes == ["F32"]:
        report.note(note)
        return MergeFigures(merged_tensors=touched, dtypes=dtypes)

    note += f"; rounding to them loses {error.own:.2%} of the changes"
    if error.whole:
        note += ", so the merge is written in float32"
    report.note(note)
    return MergeFigures(
        merged_tensors=touched,
        dtypes=dtypes,
        merge_error=MergeError(rounded=error.own, float32=error.float32),
        written_as="F32" if error.whole else "as the base",
    )


def _say_float32(file: Path) -> None:
    """Set float32 in a config.json: transformers rounds weights to the type that stands there."""
    config = read_json(file)
    config.pop("torch_dtype", None)
    file.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _check_vocabulary(adapter: Path, merged: Path) -> None:
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(merged / "tokenizer.json")).get_vocab_size()
    if known > (rows := read_json(merged / "config.json").get("vocab_size", known)):
        hint = (
            "its embeddings were resized in training; save the whole model instead of the adapter"
        )
        raise ArtifactError(
            f"adapter {adapter.name}: its tokenizer has {known} tokens, "
            f"the base has room for {rows}",
            hint=hint,
        )


def _summary(before: ExamFigures, after: ExamFigures) -> str:
    """Return what a tuning changed, in words."""
    general = (
        f"general text {before.general_nats_per_byte:.3f} → {after.general_nats_per_byte:.3f} "
        "nats per byte"
    )
    if after.exact_match is None:
        return f"nothing is held out, so nothing was asked; {general}"
    text = (
        f"{after.questions} held-out questions: "
        f"exact match {before.exact_match:.1%} → {after.exact_match:.1%}, "
        f"F1 {before.f1:.1%} → {after.f1:.1%}"
    )
    if before.tool_accuracy is not None and after.tool_accuracy is not None:
        text += (
            f", right calls {before.tool_accuracy:.1%} → {after.tool_accuracy:.1%} "
            f"of {after.tool_questions}"
        )
    if after.held_out_loss is not None:
        text += f", loss {before.held_out_loss:.3f} → {after.held_out_loss:.3f} a token"
    return f"{text}; {general}"
