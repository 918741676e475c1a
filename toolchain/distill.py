"""Distillation: a student taught by the teacher's probabilities, and a control without them.

distill(teacher, Dataset) → Checkpoint, via TeacherLogits, an artifact of its own. Student and
control start from the same weights and see the same batches; the one that is better on held-out
answers ships, and the stage says which it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint, Dataset, TeacherLogits, Work
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.figures import FLAT, StageFigures, TrainFigures
from toolchain.models.names import GENERATION_CONFIG
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import DistillSpec

if TYPE_CHECKING:
    from toolchain.training.examples import Example

TOOLS = ("accelerate", "safetensors", "torch", "transformers")
LOGITS = "teacher-logits"
"""Stage name of the cached probabilities, and their folder beside the student's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsFigures(StageFigures):
    """What the teacher's cached probabilities are of."""

    conversations: int
    positions: int
    top_k: int
    """Probabilities kept at each position."""
    tokens: int
    """Number of tokens of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(StageFigures):
    """What one of the models scored; None where nothing was held out to ask."""

    parameters: int
    held_out_loss: float | None
    """Nats per token of held-out answers."""
    questions: int
    exact_match: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMark(StageFigures):
    """What a trained model scored, and what its training took."""

    mark: Mark = field(metadata=FLAT)
    training: TrainFigures = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillFigures(StageFigures):
    """What student, control and teacher scored, and which of the first two ships."""

    shipped: str
    """`student` or `control`."""
    verdict: str
    """Which one ships, and why, in words."""
    conversations: int
    too_long: int
    """Conversations that were left out."""
    student: TrainedMark
    control: TrainedMark
    teacher: Mark
    best: TrainedMark = field(metadata=FLAT)


class _LogitsSpec(Frozen):
    """What of a DistillSpec decides the cached probabilities."""

    temperature: float
    top_k: int
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What student and control have in common."""

    teacher: Path
    student: Path | None
    dataset: Dataset
    spec: DistillSpec
    seed: int
    logits: Path


def distill(
    teacher: Checkpoint,
    dataset: Dataset,
    spec: DistillSpec,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    student: Checkpoint | None = None,
) -> Checkpoint:
    """Train student and control on the conversations of `dataset`; write the better one to `out`.

    The student starts from `student`, or from the teacher's layers that `spec.layers` names.
    Figures: loss per held-out token, exact match and F1 of `teacher`, `student` and `control`;
    `shipped` says which one is in `out`, `verdict` says it in words.
    """
    logits = cache(teacher, dataset, spec, out.with_name(LOGITS), report)
    inputs = {"teacher": teacher.digest, "logits": logits.digest, "dataset": dataset.digest}
    inputs |= {"student": student.digest} if student else {}
    work = Work(stage="distill", inputs=inputs, parameters=spec, seed=seed, tools=TOOLS)
    lesson = _Lesson(
        teacher=teacher.path,
        student=student.path if student else None,
        dataset=dataset,
        spec=spec,
        seed=seed,
        logits=logits.path,
    )
    record, fresh = keep_together(
        out, work, lambda folder: _build(lesson, folder, speaking(report)), DistillFigures
    )
    return Checkpoint(path=out, record=record, fresh=fresh)


def cache(
    teacher: Checkpoint, dataset: Dataset, spec: DistillSpec, out: Path, report: Reporter
) -> TeacherLogits:
    """Write the teacher's top-k probabilities and the tail's mass for each learned token.

    They are at the recipe's temperature.
    """
    kept = _LogitsSpec(temperature=spec.temperature, top_k=spec.top_k, max_tokens=spec.max_tokens)
    inputs = {"teacher": teacher.digest, "dataset": dataset.digest}
    work = Work(stage=LOGITS, inputs=inputs, parameters=kept, tools=TOOLS)

    record, fresh = keep_together(
        out,
        work,
        lambda folder: _write_logits(teacher.path, dataset, kept, folder, speaking(report)),
        LogitsFigures,
    )
    return TeacherLogits(path=out, record=record, fresh=fresh)


def _write_logits(
    teacher: Path, dataset: Dataset, kept: _LogitsSpec, out: Path, report: Reporter
) -> LogitsFigures | None:
    from toolchain.models.checkpoints import load_model, load_tokenizer
    from toolchain.training.examples import conversations
    from toolchain.training.teacher import token_count, write_logits

    if not is_main():
        return None
    tokenizer = load_tokenizer(teacher)
    examples, _ = conversations(tokenizer, dataset.train(), kept.max_tokens)
    figures = write_logits(
        load_model(teacher, dtype="float32"),
        examples,
        out,
        temperature=kept.temperature,
        k=kept.top_k,
        tokens=token_count(tokenizer),
        report=report,
    )
    return LogitsFigures.of(figures)


def _build(lesson: _Lesson, out: Path, report: Reporter) -> DistillFigures | None:
    from toolchain.models.checkpoints import carry, load_model, load_tokenizer, save_model
    from toolchain.training.adapters import carry_tokenizer
    from toolchain.training.examples import conversations
    from toolchain.training.teacher import check_same_tokenizer

    tokenizer = load_tokenizer(lesson.teacher)
    if lesson.student:
        check_same_tokenizer(tokenizer, load_tokenizer(lesson.student))
    examples, too_long = conversations(tokenizer, lesson.dataset.train(), lesson.spec.max_tokens)
    models = {
        name: _train(lesson, name, examples, tokenizer, out / "resume", report)
        for name in ("student", "control")
    }
    if not is_main():
        return None
    marks = {
        name: TrainedMark(mark=_mark(model, lesson, tokenizer, name, report), training=training)
        for name, (model, training) in models.items()
    }
    teacher = load_model(lesson.teacher, dtype="float32")
    of_teacher = _mark(teacher, lesson, tokenizer, "teacher", report)
    shipped, verdict = decide(marks["student"].mark, marks["control"].mark)
    report.note(f"distill: {verdict}")
    save_model(models[shipped][0], out)
    carry(lesson.teacher, out, GENERATION_CONFIG)
    carry_tokenizer(lesson.teacher, None, out)
    return DistillFigures(
        shipped=shipped,
        verdict=verdict,
        conversations=len(examples),
        too_long=too_long,
        student=marks["student"],
        control=marks["control"],
        teacher=of_teacher,
        best=marks[shipped],
    )


def _train(
    lesson: _Lesson,
    name: str,
    examples: "Sequence[Example]",
    tokenizer: Any,
    resume: Path,
    report: Reporter,
) -> tuple[Any, TrainFigures]:
    """Return the trained student, or the control, with what its training took."""
    from toolchain.training.loop import course, train
    from toolchain.training.objectives import AnswerLoss, TeacherLoss
    from toolchain.training.teacher import CachedLogits, token_count

    spec, model = lesson.spec, _start(lesson, tokenizer)
    objective: AnswerLoss | TeacherLoss
    if name == "student":
        objective = TeacherLoss(
            model,
            CachedLogits(lesson.logits),
            temperature=spec.temperature,
            ce_weight=spec.ce_weight,
            tokens=token_count(tokenizer),
        )
    else:
        objective = AnswerLoss(model)
    lessons = course(name, spec, examples, lesson.seed)
    return model, TrainFigures.of(train(objective, examples, lessons, resume, report))


def _start(lesson: _Lesson, tokenizer: Any) -> Any:
    """Return the untrained student in float32."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.students import from_layers
    from toolchain.training.teacher import token_count

    if lesson.student is None:
        return from_layers(load_model(lesson.teacher), lesson.spec.layers)
    model = load_model(lesson.student, dtype="float32")
    if (rows := model.get_input_embeddings().weight.shape[0]) < (tokens := token_count(tokenizer)):
        raise ConfigError(
            f"distill: student: it has room for {rows} tokens, the teacher's tokenizer has {tokens}"
        )
    return model


def _mark(model: Any, lesson: _Lesson, tokenizer: Any, name: str, report: Reporter) -> Mark:
    """Return size, loss per held-out token, exact match and F1."""
    from toolchain.models.checkpoints import parameter_count
    from toolchain.training.answers import loss_per_token, score
    from toolchain.training.examples import conversations

    asked = lesson.dataset.held_out()[: lesson.spec.questions]
    held_out, _ = conversations(tokenizer, asked, lesson.spec.max_tokens)
    scores = score(model, tokenizer, asked, report, name=f"ask the {name}")
    return Mark.of(
        {
            "parameters": parameter_count(model),
            "held_out_loss": loss_per_token(model, held_out),
            **scores,
        }
    )


def decide(student: Mark, control: Mark) -> tuple[str, str]:
    """Return which of the two ships, by the loss on held-out answers, and why."""
    taught, alone = student.held_out_loss, control.held_out_loss
    if taught is None or alone is None:
        return (
            "student",
            "nothing is held out, so student and control were not compared; the student ships",
        )
    scores = f"loss per held-out token {taught:.3f} against {alone:.3f}"
    if student.exact_match is not None:
        scores += f", exact match {student.exact_match:.1%} against {control.exact_match:.1%}"
    if taught < alone:
        return (
            "student",
            "the student with the teacher is better than the control without: "
            f"{scores}; the student ships",
        )
    return (
        "control",
        "the student with the teacher is not better than the control without: "
        f"{scores}; the control ships",
    )
