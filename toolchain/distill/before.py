"""Asks before teaching whether there is something to teach, in about a tenth of the time.

A teacher has something to teach if it answers better than a control does after a tenth of its
steps, or if it answered questions that nobody has labelled.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.distill.figures import BeforeFigures
from toolchain.progress import Reporter

if TYPE_CHECKING:
    from toolchain.distill.lesson import Lesson, Texts

TENTH = 10
ENTROPY_ROWS = 64
"""Conversations on which the teacher's entropy is measured."""
LEAST_ENTROPY = 0.02
"""Nats per learned token from which on a teacher says more than which token comes next."""


def ask(lesson: "Lesson", texts: "Texts", resume: Path, report: Reporter) -> BeforeFigures:
    """Return what teacher and a short control run say of the lesson; all processes take part."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.answers import loss_per_token
    from toolchain.training.hidden import mean_entropy
    from toolchain.training.influence import evenly
    from toolchain.training.loop import course, train
    from toolchain.training.objectives import AnswerLoss

    began = time.monotonic()
    examples = texts.labelled
    held_out = lesson.held_out()
    teacher_loss = entropy = None
    if lesson.spec.needs_same_tokens or lesson.student is None:
        teacher = load_model(lesson.teacher.path, dtype="float32")
        teacher_loss = loss_per_token(teacher, held_out)
        rows = evenly(len(examples), min(ENTROPY_ROWS, len(examples)))
        entropy = mean_entropy(teacher, [examples[row] for row in rows])
        del teacher

    model = lesson.start()
    whole = course("tenth", lesson.spec, examples, lesson.seed)
    train(
        AnswerLoss(model),
        examples,
        replace(whole, steps=max(1, whole.steps // TENTH)),
        resume,
        report,
    )
    asked = judge(
        teacher_loss=teacher_loss,
        tenth_loss=loss_per_token(model, held_out),
        entropy=entropy,
        unlabelled=len(texts.written),
        learns_more=lesson.spec.needs_same_tokens,
    )
    return replace(asked, seconds=round(time.monotonic() - began, 1))


def judge(
    *,
    teacher_loss: float | None,
    tenth_loss: float | None,
    entropy: float | None,
    unlabelled: int,
    learns_more: bool = True,
) -> BeforeFigures:
    """Return the figures with their verdict.

    `learns_more` says whether the student learns from the teacher's probabilities or hidden states
    too, and not only from what it writes.
    """
    if teacher_loss is None or tenth_loss is None:
        known = "the teacher was not compared with a control"
        has_advantage = True
    else:
        known = (
            f"the teacher's loss per held-out token is {teacher_loss:.3f}, the control's "
            f"{tenth_loss:.3f} after a tenth of its steps"
        )
        has_advantage = teacher_loss < tenth_loss
    says_more = entropy is None or entropy >= LEAST_ENTROPY
    if entropy is not None:
        known += f"; the teacher's entropy is {entropy:.3f} nats a learned token"
    known += f"; {unlabelled:,} questions that nobody labelled" if unlabelled else ""

    is_nothing = not unlabelled and not (learns_more and has_advantage and says_more)
    start = "there is nothing to teach" if is_nothing else "there is something to teach"
    end = ", and there are no questions without a label" if is_nothing else ""
    return BeforeFigures(
        teacher_loss=teacher_loss,
        tenth_loss=tenth_loss,
        entropy=entropy,
        unlabelled=unlabelled,
        nothing_to_teach=is_nothing,
        verdict=f"{start}: {known}{end}",
        seconds=0.0,
    )
