"""Distillation: a student that learns from a teacher, and two controls that do not.

distill(teacher, Dataset) → Checkpoint. It asks first whether there is something to teach. Then
student and controls start from the same weights; one control has the same labels, the other the
same compute. The one that is best on held-out answers ships, and the stage says which it was.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolchain.artifacts import Checkpoint, Dataset, Work, Written, value_digest
from toolchain.distill import before
from toolchain.distill.figures import DistillFigures, Mark, TrainedMark
from toolchain.distill.lesson import Lesson
from toolchain.distill.logits import LOGITS
from toolchain.distill.models import Places, train_all
from toolchain.distill.verdict import CONTROL, LONGER, STUDENT, decide
from toolchain.figures import Forgotten
from toolchain.models.names import GENERATION_CONFIG
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import DistillSpec
from toolchain.teaching.writing import WRITTEN, Assignment, write
from toolchain.training.probe import (
    Question,
    check_forgotten,
    digest_of,
    forgotten,
    known,
    lost_words,
    spread,
)

__all__ = ["DistillFigures", "Mark", "decide", "distill"]
TOOLS = ("accelerate", "safetensors", "torch", "transformers")
MORE_GENERAL = (
    "a larger `general_share`, a student with more `layers` and a lower `learning_rate` forget less"
)
"""Hint for a student that forgot too much."""


def distill(
    teacher: Checkpoint,
    dataset: Dataset,
    spec: DistillSpec,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    student: Checkpoint | None = None,
    assignment: Assignment | None = None,
    questions: Sequence[Question] = (),
    talk: Sequence[Mapping[str, Any]] = (),
) -> Checkpoint:
    """Train student and controls on the conversations of `dataset`; write the best one to `out`.

    The student starts from `student`, or from layers of the teacher. With an `assignment` a teacher
    first writes more conversations for it.
    Figures: loss per held-out token, exact match and F1 of teacher, student and controls; `shipped`
    says which one is in `out`, `verdict` says it in words.

    With general `questions` the share of them that is answered is measured of the model that came
    in and of the one that ships; raise GateError if more is lost than the recipe allows. Of `talk`,
    general conversations, student and controls learn as many as the recipe says.
    """
    inputs = {"teacher": teacher.digest, "dataset": dataset.digest}
    inputs |= {"student": student.digest} if student else {}
    asked = spread(questions, spec.general_questions)
    inputs |= {"general_questions": digest_of(asked)} if asked else {}
    inputs |= {"talk": value_digest(list(talk))} if spec.general_share else {}
    written: Written | None = None
    if assignment:
        written = write(dataset, assignment, out.with_name(WRITTEN), report, seed=seed)
        inputs["written"] = written.digest
    lesson = Lesson(
        teacher=teacher,
        student=student,
        dataset=dataset,
        written=written,
        spec=spec,
        seed=seed,
        questions=asked,
        talk=talk,
    )
    work = Work(stage="distill", inputs=inputs, parameters=spec, seed=seed, tools=TOOLS)
    record, fresh = keep_together(
        out,
        work,
        lambda folder: _build(lesson, out.with_name(LOGITS), folder, speaking(report)),
        DistillFigures,
    )
    lost = DistillFigures.read(record.figures).forgotten
    if note := check_forgotten("distill", lost, spec.max_forgotten, hint=MORE_GENERAL):
        report.note(note)
    return Checkpoint(path=out, record=record, fresh=fresh)


def _build(lesson: Lesson, logits: Path, out: Path, report: Reporter) -> DistillFigures | None:
    began, resume = time.monotonic(), out / "resume"
    _check_tokenizers(lesson)
    texts = lesson.texts()
    lesson = lesson.with_layers(texts.labelled)
    if lesson.influence:
        report.note(f"distill: layers {', '.join(map(str, lesson.layers))} change the most")

    asked = None
    if lesson.spec.ask and texts.held_out:
        asked = before.ask(lesson, texts, resume, report)
        asked = replace(asked, seconds=round(time.monotonic() - began, 1))
        report.note(f"distill: {asked.verdict}")

    is_nothing = asked is not None and asked.nothing_to_teach
    models, compute = train_all(lesson, texts, Places(logits, resume), report, alone=is_nothing)
    if not is_main():
        return None
    of_student = len(texts.all) - len(texts.labelled) - len(texts.written)
    of_controls = len(texts.control) - len(texts.labelled)
    marks = {
        name: TrainedMark(
            general=of_student if name == STUDENT else of_controls,
            mark=_mark(model, lesson, name, report),
            training=training,
        )
        for name, (model, training) in models.items()
    }
    shipped, verdict = decide({name: each.mark for name, each in marks.items()})
    report.note(f"distill: {verdict}")
    _save(lesson, models[shipped][0], out)
    return DistillFigures(
        shipped=shipped,
        verdict=verdict,
        conversations=len(texts.labelled),
        written=len(texts.written),
        too_long=texts.too_long,
        layers=list(lesson.layers) or None,
        influence=list(lesson.influence) or None,
        before=asked,
        student=marks.get(STUDENT),
        control=marks[CONTROL],
        longer=marks.get(LONGER),
        compute_ratio=compute,
        teacher=_mark_of_teacher(lesson, report),
        forgotten=_forgotten(lesson, models[shipped][0], report),
        best=marks[shipped],
    )


def _check_tokenizers(lesson: Lesson) -> None:
    """Raise ArtifactError if a student learns token by token and has another tokenizer."""
    from toolchain.models.checkpoints import load_tokenizer
    from toolchain.training.teacher import check_same_tokenizer

    if lesson.student and lesson.spec.needs_same_tokens:
        teacher, student = lesson.teacher.path, lesson.student.path
        check_same_tokenizer(load_tokenizer(teacher), load_tokenizer(student))


def _mark(model: Any, lesson: Lesson, name: str, report: Reporter, *, own: bool = False) -> Mark:
    """Return size, loss per held-out token, exact match and F1; `own`: by the teacher's tokens."""
    from toolchain.models.checkpoints import load_tokenizer, parameter_count
    from toolchain.training.answers import loss_per_token, score
    from toolchain.training.examples import conversations

    tokenizer = load_tokenizer(lesson.teacher.path if own else lesson.speaks_as)
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


def _mark_of_teacher(lesson: Lesson, report: Reporter) -> Mark:
    from toolchain.models.checkpoints import load_model

    model = load_model(lesson.teacher.path, dtype="float32")
    return _mark(model, lesson, "teacher", report, own=True)


def _forgotten(lesson: Lesson, model: Any, report: Reporter) -> Forgotten | None:
    """Return how many general questions the model that came in answers, and the one that ships."""
    from toolchain.models.checkpoints import load_model

    if not lesson.questions:
        return None
    models = {"before": load_model(lesson.came_in, dtype="float32"), "after": model}
    before, after = (
        known(
            each,
            lesson.tokenizer(),
            lesson.questions,
            report,
            name=f"general questions, {name}",
        )
        for name, each in models.items()
    )
    lost = forgotten(before, after)
    report.note(f"distill: {lost_words(lost)}")
    return lost


def _save(lesson: Lesson, model: Any, out: Path) -> None:
    from toolchain.models.checkpoints import carry, save_model
    from toolchain.training.adapters import carry_tokenizer

    save_model(model, out)
    carry(lesson.speaks_as, out, GENERATION_CONFIG)
    carry_tokenizer(lesson.speaks_as, None, out)
