"""Asks before teaching whether there is something to teach, in about a tenth of the time.

A teacher has something to teach if it answered questions that nobody has labelled. Else it must
answer better than a control does after a tenth of its steps, and be unsure enough for its
probabilities to say more than the answers that the control learns too.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.distill.figures import BeforeFigures
from toolchain.progress import Reporter
from toolchain.recipe import DistillSpec

if TYPE_CHECKING:
    from toolchain.distill.lesson import Lesson, Texts

TENTH = 10
ENTROPY_ROWS = 64
"""Conversations on which the teacher's entropy is measured."""
LEAST_ENTROPY = 0.1
# The starter's tuned teacher has 0.078: one answer stands under each question, so the answer itself
# is the distribution. Its student came to 0.050 nats a held-out token, the control to 0.042.
"""Nats per learned token from which on a teacher's probabilities say more than the answers do."""


def ask(lesson: "Lesson", texts: "Texts", resume: Path, report: Reporter) -> BeforeFigures:
    """Return what teacher and a short control run say of the lesson; all processes take part."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.answers import loss_per_token
    from toolchain.training.hidden import mean_entropy
    from toolchain.training.influence import evenly
    from toolchain.training.loop import course, train
    from toolchain.training.objectives import AnswerLoss

    examples = texts.labelled
    teacher_loss = entropy = None
    if lesson.spec.needs_same_tokens or lesson.student is None:
        teacher = load_model(lesson.teacher.path, dtype="float32")
        teacher_loss = loss_per_token(teacher, texts.held_out)
        rows = evenly(len(examples), min(ENTROPY_ROWS, len(examples)))
        entropy = mean_entropy(teacher, [examples[row] for row in rows])
        del teacher

    model = lesson.start()
    whole = course("tenth", lesson.spec, texts.control, lesson.seed)
    train(
        AnswerLoss(model),
        texts.control,
        replace(whole, steps=max(1, whole.steps // TENTH)),
        resume,
        report,
    )
    return judge(
        teacher_loss=teacher_loss,
        tenth_loss=loss_per_token(model, texts.held_out),
        entropy=entropy,
        unlabelled=len(texts.written),
        learns=lesson.spec,
    )


def judge(
    *,
    teacher_loss: float | None,
    tenth_loss: float | None,
    entropy: float | None,
    unlabelled: int,
    learns: DistillSpec,
) -> BeforeFigures:
    """Return the figures with their verdict."""
    facts, reasons = [], []
    if teacher_loss is not None and tenth_loss is not None:
        facts.append(
            f"the teacher's loss per held-out token is {teacher_loss:.3f}, the control's "
            f"{tenth_loss:.3f} after a tenth of its steps"
        )
        if teacher_loss >= tenth_loss:
            reasons.append("it is no better than the control")
    if entropy is not None:
        facts.append(f"its entropy is {entropy:.3f} nats a learned token")
        # Hidden states show how an answer is come by, however sure the teacher is of it.
        if entropy < LEAST_ENTROPY and not learns.hidden_weight:
            reasons.append("its probabilities say hardly more than the answers")
    if not learns.needs_same_tokens:
        reasons.append("nothing else is learned from it")

    is_nothing = bool(reasons) and not unlabelled
    if is_nothing:
        facts += [*reasons, "there are no questions without a label"]
    elif unlabelled:
        facts.append(f"it answered {unlabelled:,} questions that nobody labelled")
    start = "there is nothing to teach" if is_nothing else "there is something to teach"
    return BeforeFigures(
        teacher_loss=teacher_loss,
        tenth_loss=tenth_loss,
        entropy=entropy,
        unlabelled=unlabelled,
        nothing_to_teach=is_nothing,
        verdict=f"{start}: {', '.join(facts)}",
        seconds=0.0,
    )
