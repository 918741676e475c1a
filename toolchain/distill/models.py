"""Trains the student and its controls, one after the other from the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from toolchain.distill.compute import LEAST, MOST, Counts, ratio
from toolchain.distill.lesson import Lesson, Pupil, Texts, on_policy, train_pupil
from toolchain.distill.logits import cache
from toolchain.distill.verdict import CONTROL, LONGER, STUDENT
from toolchain.figures import TrainFigures
from toolchain.progress import Reporter
from toolchain.teaching.writing import WrittenFigures

Trained = tuple[Any, TrainFigures]


@dataclass(frozen=True, slots=True)
class Places:
    """Where trainings keep what outlives them."""

    logits: Path
    """Folder of the teacher's probabilities, an artifact of its own."""
    resume: Path
    """Folder of what an interrupted run goes on from."""


def train_all(
    lesson: Lesson, texts: Texts, places: Places, report: Reporter, *, alone: bool
) -> tuple[Mapping[str, Trained], float | None]:
    """Return the trained models by name, and the operations of student and teacher by control.

    With `alone` there is only a control.
    """
    from toolchain.training.objectives import AnswerLoss

    steps = lesson.spec.steps(len(texts.control))
    control = Pupil(name="control", examples=texts.control, steps=steps, objective=AnswerLoss)
    if alone:
        return {CONTROL: train_pupil(lesson, control, places.resume, report)}, None

    student, own_tokens = train_student(lesson, texts, places, report)
    models = {STUDENT: student, CONTROL: train_pupil(lesson, control, places.resume, report)}
    compute = ratio(_counts(lesson, texts, student[0], own_tokens))
    if compute > MOST:
        report.note(
            f"distill: student and teacher took {compute:.1f} times the operations of the "
            f"control; the longer control is trained {MOST:g} times as long"
        )
    if compute >= LEAST:
        more = round(steps * min(compute, MOST))
        longer = replace(control, name="longer-control", steps=more)
        models[LONGER] = train_pupil(lesson, longer, places.resume, report)
    return models, compute


def train_student(
    lesson: Lesson, texts: Texts, places: Places, report: Reporter
) -> tuple[Trained, int]:
    """Return the trained student, and the number of tokens of its own answers that it learned."""
    total = lesson.spec.steps(len(texts.all))
    own_steps = round(lesson.spec.on_policy_share * total)
    if lesson.spec.loss != "labels":
        cache(lesson, texts.distinct, places.logits, report)
    pupil = Pupil(
        name="student",
        examples=texts.all,
        steps=total - own_steps,
        objective=partial(_objective, lesson, texts, places.logits),
    )
    model, training = train_pupil(lesson, pupil, places.resume, report)
    if not own_steps:
        return (model, training), 0

    own = replace(pupil, name="own-answers", steps=own_steps)
    after = on_policy(lesson, model, own, places.resume, report)
    return (model, _summed(training, after)), after.trained_tokens


def _objective(lesson: Lesson, texts: Texts, logits: Path, model: Any) -> Any:
    """Return what a student learns, as the spec says."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.hidden import HiddenLoss
    from toolchain.training.objectives import AnswerLoss, TeacherLoss
    from toolchain.training.teacher import CachedLogits, token_count

    spec = lesson.spec
    # Hidden states are compared row by row, as the teacher reads them.
    shares = not spec.hidden_weight
    objective: Any = AnswerLoss(model, shares=shares)
    if spec.loss != "labels":
        objective = TeacherLoss(
            model,
            CachedLogits(logits, texts.place),
            temperature=spec.temperature,
            ce_weight=spec.ce_weight if spec.loss == "both" else 0.0,
            tokens=token_count(lesson.tokenizer()),
            shares=shares,
        )
    if not spec.hidden_weight:
        return objective
    teacher = load_model(lesson.teacher.path, dtype="float32")
    return HiddenLoss(objective, teacher, layers=lesson.layers, weight=spec.hidden_weight)


def _counts(lesson: Lesson, texts: Texts, student: Any, own_tokens: int) -> Counts:
    """Return parameters and tokens of a distillation."""
    from toolchain.models.checkpoints import load_model, parameter_count

    spec = lesson.spec
    labelled, learned, distinct = (
        sum(len(example.ids) for example in examples)
        for examples in (texts.control, texts.all, texts.distinct)
    )
    writing = WrittenFigures.read(lesson.written.record.figures) if lesson.written else None
    taught = spec.passes(len(texts.all))
    read = (spec.loss != "labels") * distinct + (taught * learned if spec.hidden_weight else 0)
    return Counts(
        student=parameter_count(student),
        teacher=parameter_count(load_model(lesson.teacher.path))
        if lesson.spec.needs_same_tokens
        else 0,
        writer=(writing.parameters or 0) if writing else 0,
        labelled=round(spec.passes(len(texts.control)) * labelled),
        learned=round(taught * learned * (1 - spec.on_policy_share)),
        read=round(read),
        asked=writing.tokens if writing else 0,
        own=own_tokens,
    )


def _summed(first: TrainFigures, second: TrainFigures) -> TrainFigures:
    """Return what two trainings of a model took together; the loss is that of the first."""
    seconds = first.train_s + second.train_s
    tokens = first.trained_tokens + second.trained_tokens
    return TrainFigures(
        steps=first.steps + second.steps,
        loss=first.loss,
        trained_tokens=tokens,
        tokens_per_s=round(tokens / max(seconds, 1e-9), 1),
        train_s=round(seconds, 1),
        train_cpu_s=round(first.train_cpu_s + second.train_cpu_s, 1),
        peak_memory_mb=max(first.peak_memory_mb, second.peak_memory_mb),
        precision=first.precision,
        precision_reason=first.precision_reason,
        parts=first.parts,
        checkpointing=first.checkpointing,
    )
