"""The teacher's probabilities of all that the student learns: an artifact of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.artifacts import TeacherLogits, Work, value_digest
from toolchain.config import Frozen
from toolchain.distill.figures import LogitsFigures
from toolchain.distill.lesson import Lesson
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter

if TYPE_CHECKING:
    from toolchain.training.examples import Example

TOOLS = ("accelerate", "safetensors", "torch", "transformers")
LOGITS = "teacher-logits"
"""Stage name of the cached probabilities, and their folder beside the student's."""


class _LogitsSpec(Frozen):
    """What of a DistillSpec decides the cached probabilities."""

    temperature: float
    top_k: int
    max_tokens: int


def cache(
    lesson: Lesson, examples: "Sequence[Example]", out: Path, report: Reporter
) -> TeacherLogits:
    """Write the teacher's top-k probabilities and the tail's mass for each learned token.

    They are at the recipe's temperature.
    """
    spec = lesson.spec
    kept = _LogitsSpec(temperature=spec.temperature, top_k=spec.top_k, max_tokens=spec.max_tokens)
    inputs = {"teacher": lesson.teacher.digest, "dataset": lesson.dataset.digest}
    inputs |= {"written": lesson.written.digest} if lesson.written else {}
    if spec.general_share:
        # What is learned of them, and in which order, follows from share and seed.
        inputs["general"] = value_digest(
            [list(lesson.talk), spec.general_share, lesson.seed, len(examples)]
        )
    work = Work(stage=LOGITS, inputs=inputs, parameters=kept, tools=TOOLS)

    record, fresh = keep_together(
        out,
        work,
        lambda folder: _write(lesson, examples, kept, folder, speaking(report)),
        LogitsFigures,
    )
    return TeacherLogits(path=out, record=record, fresh=fresh)


def _write(
    lesson: Lesson,
    examples: "Sequence[Example]",
    kept: _LogitsSpec,
    out: Path,
    report: Reporter,
) -> LogitsFigures | None:
    from toolchain.models.checkpoints import load_model
    from toolchain.training.teacher import token_count, write_logits

    if not is_main():
        return None
    figures = write_logits(
        load_model(lesson.teacher.path, dtype="float32"),
        examples,
        out,
        temperature=kept.temperature,
        k=kept.top_k,
        tokens=token_count(lesson.tokenizer()),
        report=report,
    )
    return LogitsFigures.of(figures)
