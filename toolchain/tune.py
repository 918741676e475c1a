"""LoRA on a base, merged into a plain checkpoint; and the merge alone, for a ready adapter.

tune(Checkpoint, Dataset) → Checkpoint. The base is frozen: what is learned is the adapter, kept
under `out`/adapter.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import (
    RESUME,
    Checkpoint,
    Dataset,
    Figures,
    Work,
    digest,
    value_digest,
    write_jsonl,
)
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.figures import FLAT, Forgotten, PrivacyFigures, StageFigures, TrainFigures
from toolchain.general import GENERAL, passages
from toolchain.models.adapter_config import check_base_name
from toolchain.privacy.canaries import FILE as CANARIES
from toolchain.privacy.canaries import Canary, make_canaries, read_canaries, write_canaries
from toolchain.privacy.protection import Protection, protection
from toolchain.privacy.rules import refuse_faults
from toolchain.processes import is_main, keep_together, many, speaking
from toolchain.progress import Reporter
from toolchain.recipe import TuneSpec
from toolchain.tool_use import said
from toolchain.training.exam import Exam, ExamFigures, that_fit
from toolchain.training.four_bits import (
    FOUR,
    SIXTEEN,
    TOOL,
    FourBitFigures,
    Rounded,
    check_cost,
    figures_of,
    loss_of,
    round_linears,
    write_rounded,
)
from toolchain.training.lora import with_lora
from toolchain.training.merging import MergeFigures, merge_folders
from toolchain.training.probe import (
    Question,
    check_forgotten,
    forgotten,
    lost_words,
    mixed,
    spread,
)

if TYPE_CHECKING:
    from toolchain.training.examples import Example

TOOLS = ("accelerate", "peft", "safetensors", "torch", "transformers")
ADAPTER = "adapter"
ANSWERS = "answers.jsonl"
BASE = "base.json"
"""What was seen of the base, beside the state of a run: one that goes on does not ask it again."""
MOST_COMPARED = 64
"""Answers on which four bits are compared with sixteen, at most."""


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
    forgotten: Forgotten | None = None
    """Right answers to general questions; None where none was asked."""
    four_bits: FourBitFigures | None = None
    """None where the base kept its own bits."""
    privacy: PrivacyFigures | None = None
    """None where nothing is claimed."""
    planted: int | None = None
    """Canaries of an audit, of which about half were learned; None where there are none."""


class _MergeSpec(Frozen):
    """A merge has no parameters beside its inputs."""

    base_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What is learned, how, and what it is measured on."""

    base: Path
    exam: Exam
    rows: Sequence[Mapping[str, Any]]
    """Conversations to learn."""
    entries: Sequence[int]
    """Number of conversations of each entry, in their order; empty where it does not matter."""
    spec: TuneSpec
    seed: int
    planted: int = 0
    """Canaries of an audit without a claim."""


def tune(
    base: Checkpoint,
    dataset: Dataset,
    spec: TuneSpec,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    general: Path = GENERAL,
    questions: Sequence[Question] = (),
    talk: Sequence[Mapping[str, Any]] = (),
    planted: int = 0,
) -> Checkpoint:
    """Train a LoRA adapter on the conversations of `dataset`; write the merged checkpoint to `out`.

    Figures: exact counts of trainable and all parameters, speed, memory, and before (`base`) and
    after: exact match, F1 and loss on the held-out conversations, and the loss on `general` text,
    which says what was forgotten. `answers.jsonl` has the answers of both side by side.

    With general `questions` the share of them that is answered before and after is measured too;
    raise GateError if more is lost than the recipe allows. Of `talk`, general conversations, as
    many are learned as the recipe says. With `planted` canaries about half of them are learned, by
    the toss of coins that `canaries.jsonl` keeps; raise ConfigError where several processes train.
    """
    refuse_faults(spec)
    _refuse_coins(planted)
    asked = spread(questions, spec.general_questions)
    exam = Exam(dataset, spec, tuple(passages(general)), asked)
    rows = mixed(dataset.train(), talk, spec.general_share, seed)
    entries = dataset.entries() if spec.privacy else ()
    lesson = _Lesson(
        base=base.path,
        exam=exam,
        rows=rows,
        entries=entries,
        spec=spec,
        seed=seed,
        planted=planted,
    )
    inputs = {
        "base": base.digest,
        "dataset": dataset.digest,
        **exam.inputs,
        **({"talk": value_digest(list(talk))} if spec.general_share else {}),
        **({"planted": str(planted)} if planted else {}),
    }
    tools = (*TOOLS, TOOL) if spec.base_bits == 4 else TOOLS
    work = Work(stage="tune", inputs=inputs, parameters=spec, seed=seed, tools=tools)
    record, fresh = keep_together(
        out,
        work,
        lambda folder: _build(lesson, folder, speaking(report)),
        TuneFigures,
    )
    lost = TuneFigures.read(record.figures).forgotten
    if note := check_forgotten("tune", lost, spec.max_forgotten):
        report.note(note)
    return Checkpoint(path=out, record=record, fresh=fresh)


def _refuse_coins(planted: int) -> None:
    if planted and many():
        raise ConfigError(
            "evaluate.leak: planted: several processes would toss different coins",
            hint="audit in one process",
        )


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
        return merge_folders(base.path, adapter, folder, report)

    record, fresh = keep_together(out, work, build, MergeFigures)
    return Checkpoint(path=out, record=record, fresh=fresh)


def _build(lesson: _Lesson, out: Path, report: Reporter) -> TuneFigures | None:
    from toolchain.models.checkpoints import load_tokenizer
    from toolchain.training.adapters import save_adapter
    from toolchain.training.examples import conversations
    from toolchain.training.shown import load_shown

    base, exam, spec = lesson.base, lesson.exam, lesson.spec
    tokenizer, model = load_tokenizer(base), load_shown(base, [*lesson.rows, *exam.asked()])
    canaries = _canaries(lesson.planted, out / RESUME)
    rows = [*lesson.rows, *(each.row for each in canaries if each.planted)]
    examples, too_long = conversations(tokenizer, rows, spec.max_tokens, model)
    file = out / RESUME / BASE
    look = exam.look_once
    first = look(model, tokenizer, report, "the base", file=file) if is_main() else None
    four = _FourBits.round(model, lesson, examples, tokenizer) if spec.base_bits == 4 else None
    adapted = with_lora(model, spec, lesson.seed, stage="tune")
    trainable, total = adapted.get_nb_trainable_parameters()
    report.note(
        f"trainable: {trainable:,} of {total:,} parameters ({trainable / total:.2%}), "
        f"{len(examples)} conversations"
    )
    if spec.privacy:
        training, protected = _learn_privately(adapted, tokenizer, lesson, out / RESUME, report)
    else:
        training, protected = _learn(adapted, examples, lesson, out / RESUME, report), None
    if first is None:
        return None
    if canaries:
        write_canaries(out / CANARIES, canaries)
    save_adapter(adapted, out / ADAPTER, base=base)
    if four:
        merged = four.merge(base, out, report)
    else:
        merged = merge_folders(base, out / ADAPTER, out, report)
    last = exam.look(load_shown(out, exam.asked()), tokenizer, report, "the tuned model")
    _write_answers(exam.asked(), first.answers, last.answers, out / ANSWERS)
    lost = forgotten(first.known, last.known) if last.known else None
    if few := spec.few_updates(len(examples)):
        report.note(f"tune: {few}")
    report.note(_summary(first.figures, last.figures, lost))
    return TuneFigures(
        trainable_parameters=trainable,
        total_parameters=total,
        conversations=len(examples),
        too_long=too_long,
        base=first.figures,
        merge=merged,
        training=TrainFigures.of(training),
        tuned=last.figures,
        forgotten=lost,
        four_bits=four.figures if four else None,
        privacy=protected.figures(spec.privacy.canaries) if protected and spec.privacy else None,
        planted=lesson.planted or None,
    )


def _learn(
    adapted: Any, examples: Sequence["Example"], lesson: _Lesson, resume: Path, report: Reporter
) -> Figures:
    """Train the adapter on all examples alike."""
    from toolchain.training.loop import course, train
    from toolchain.training.objectives import AnswerLoss

    steps = course("tune", lesson.spec, examples, lesson.seed)
    return train(AnswerLoss(adapted.get_base_model()), examples, steps, resume, report)


def _learn_privately(
    adapted: Any, tokenizer: Any, lesson: _Lesson, resume: Path, report: Reporter
) -> tuple[Figures, Protection]:
    """Train the adapter so that no entry can be told to have been there."""
    from toolchain.training.examples import encoded
    from toolchain.training.loop import Course
    from toolchain.training.private import Private, Units, train_privately

    spec = lesson.spec
    assert spec.privacy
    canaries = _canaries(spec.privacy.canaries, resume)
    rows = [*lesson.rows, *(each.row for each in canaries if each.planted)]
    numbers = [number for number, count in enumerate(lesson.entries) for _ in range(count)]
    numbers += range(len(lesson.entries), len(lesson.entries) + len(rows) - len(numbers))
    units = Units(list(encoded(tokenizer, rows, spec.max_tokens)), numbers)
    # How many canaries the coins chose is not known to everybody, so half of them count.
    count = len(units) - sum(each.planted for each in canaries) + len(canaries) // 2
    protected = protection(spec.privacy, count, spec.epochs, "tune: privacy")
    report.note(f"tune: {protected.words}, {protected.steps} steps")
    steps = Course(
        name="tune",
        steps=protected.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        warmup_share=spec.warmup_share,
        seed=lesson.seed,
    )
    private = Private(units=units, protection=protected, course=steps)
    figures = train_privately(adapted.get_base_model(), private, resume, report)
    if canaries:
        write_canaries(resume.parent / CANARIES, canaries)
    return figures, protected


def _canaries(count: int, resume: Path) -> list[Canary]:
    """Return the canaries of a training; one that goes on has those that it began with."""
    file = resume / CANARIES
    if not file.is_file() and count:
        resume.mkdir(exist_ok=True)
        write_canaries(file, make_canaries(count))
    return read_canaries(file) if count else []


@dataclass(slots=True, kw_only=True)
class _FourBits:
    """A base in four bits: what it cost, and the two merges of what was trained on it."""

    compared: Sequence["Example"]
    """Answers on which losses are compared: held-out ones, where there are any."""
    rounded: Rounded
    costs: tuple[float, float]
    """Loss of the untrained base, in its own bits and in four."""
    figures: FourBitFigures | None = None

    @classmethod
    def round(
        cls, model: Any, lesson: _Lesson, examples: Sequence["Example"], tokenizer: Any
    ) -> "_FourBits":
        """Round a model's linear layers; raise GateError if that costs it too much."""
        # Every process measures: one that raised alone would leave the others waiting.
        held_out = that_fit(tokenizer, lesson.exam.asked(), lesson.spec.max_tokens)
        compared = (held_out or list(examples))[:MOST_COMPARED]
        before = loss_of(model, compared)
        rounded = round_linears(model)
        costs = (before, loss_of(model, compared))
        check_cost(*costs, lesson.spec.max_bits_cost)
        return cls(compared=compared, rounded=rounded, costs=costs)

    def merge(self, base: Path, out: Path, report: Reporter) -> MergeFigures:
        """Merge the adapter onto both bases; put the better one into `out`."""
        from toolchain.models.checkpoints import load_model
        from toolchain.training.answers import loss_per_token

        scratch = out / RESUME
        write_rounded(base, self.rounded.modules, scratch / "rounded")
        made: dict[str, MergeFigures] = {}
        losses = []
        for name, source in ((SIXTEEN, base), (FOUR, scratch / "rounded")):
            folder = scratch / name.replace(" ", "-")
            folder.mkdir(exist_ok=True)
            made[name] = merge_folders(source, out / ADAPTER, folder, report)
            loss = loss_per_token(load_model(folder), self.compared)
            losses.append(math.nan if loss is None else loss)

        self.figures = figures_of(self.rounded, self.costs, (losses[0], losses[1]))
        report.note(self.figures.words)
        for entry in (scratch / self.figures.merged_onto.replace(" ", "-")).iterdir():
            shutil.move(entry, out / entry.name)
        return made[self.figures.merged_onto]


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


def _summary(before: ExamFigures, after: ExamFigures, lost: Forgotten | None) -> str:
    """Return what a tuning changed, in words."""
    general = (
        f"general text {before.general_nats_per_byte:.3f} → {after.general_nats_per_byte:.3f} "
        "nats per byte"
    )
    if lost:
        general += f"; {lost_words(lost)}"
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
