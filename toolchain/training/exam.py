"""What a model is measured on before and after a training: held-out answers and general text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError
from toolchain.figures import StageFigures
from toolchain.files import write_whole
from toolchain.progress import Reporter
from toolchain.recipe import TrainSpec
from toolchain.training.probe import Question, digest_of, known

if TYPE_CHECKING:
    from toolchain.training.examples import Example


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
class Seen:
    """What was seen of one model."""

    figures: ExamFigures
    answers: list[str]
    """Answers to the held-out questions of the recipe."""
    known: list[bool]
    """For each general question, whether it was answered rightly."""

    def write(self, file: Path) -> None:
        """Write what `read` reads."""
        kept = {"figures": self.figures.as_json(), "answers": self.answers, "known": self.known}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(kept))

    @classmethod
    def read(cls, file: Path) -> "Seen | None":
        """Return what was written; None where nothing was, or something else."""
        with suppress(OSError, ValueError, KeyError, TypeError, ArtifactError):
            kept = json.loads(file.read_text(encoding="utf-8"))
            figures = ExamFigures.read(kept["figures"])
            return cls(figures=figures, answers=list(kept["answers"]), known=list(kept["known"]))
        return None


@dataclass(frozen=True, slots=True)
class Exam:
    """What base and tuned model are measured on, and what is learned."""

    dataset: Dataset
    spec: TrainSpec
    general: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    """General questions; none for a model that was trained from nothing."""

    @property
    def inputs(self) -> dict[str, str]:
        """Names and digests of what is measured beside the data set."""
        text = hashlib.sha256("\0".join(self.general).encode()).hexdigest()
        asked = {"general_questions": digest_of(self.questions)} if self.questions else {}
        return {"general": text, **asked}

    def look(self, model: Any, tokenizer: Any, report: Reporter, name: str) -> "Seen":
        """Return what a model, whose `name` stands in the bars, scores and answers."""
        figures, answers = self.take(model, tokenizer, report, f"ask {name}")
        right = (
            known(model, tokenizer, self.questions, report, name=f"general questions, {name}")
            if self.questions
            else []
        )
        return Seen(figures=figures, answers=answers, known=right)

    def look_once(
        self, model: Any, tokenizer: Any, report: Reporter, name: str, *, file: Path
    ) -> "Seen":
        """Return what `look` does, from a file where an interrupted run has looked already.

        The file lies in the folder of that run, so whatever decides the figures is the same.
        """
        if seen := Seen.read(file):
            return seen
        seen = self.look(model, tokenizer, report, name)
        seen.write(file)
        return seen

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
            held_out = that_fit(tokenizer, asked, self.spec.max_tokens, model)
            losses = {
                "held_out_loss": loss_per_token(model, held_out),
                "general_nats_per_byte": loss_per_byte(model, tokenizer, self.general),
            }
        scored = scores(asked, answers) | call_scores(tokenizer, asked, answers)
        return ExamFigures.of(scored | losses), answers


def that_fit(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], max_tokens: int, model: Any = None
) -> "list[Example]":
    """Return the conversations that are not too long, none if all are."""
    from toolchain.training.examples import conversations

    # That all are too long is no reason to lose a training that is done.
    with suppress(ArtifactError):
        return conversations(tokenizer, rows, max_tokens, model)[0]
    return []
