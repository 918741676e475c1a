"""What a recipe's documents answer and what they missed, question by question.

Read from a work folder, which holds the stage's record and its `found.jsonl`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from toolchain.artifacts import recorded
from toolchain.errors import ArtifactError
from toolchain.figures import KnowledgeFigures
from toolchain.knowledge.found import FOUND, FoundPassage, read_found
from toolchain.ledger import Ledger, total

STAGE = "know"
MISSED = {
    "wrong": "answered with a passage that does not answer it",
    "false": "answered, though the documents do not say it",
    "refused": "not answered, though a passage says it",
}
"""Outcomes that are faults, the worst first."""
KNOWN = {
    "right": "answered with a right passage",
    "also": "answered with another passage that answers it too",
    "unknown": "rightly said to be unknown",
}
_PASSAGES = re.compile(r"[0-9]+ passages?(; [0-9]+ that [a-z ]+ word for word)?")
_Z = 1.959964
"""Standard normal deviate of a 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the stage `know` made and measured."""

    name: str
    """Name of the work folder."""
    figures: KnowledgeFigures
    questions: tuple[FoundPassage, ...]
    """What each fresh question found; empty where nobody wrote any."""
    ledger: Ledger = field(default_factory=Ledger)
    """Sum of the ledgers of the stages in the work folder."""

    def with_outcome(self, outcome: str) -> list[FoundPassage]:
        """Return the questions with an outcome, in their order."""
        return [each for each in self.questions if each.outcome == outcome]


def read_known(work: Path) -> Known:
    """Return what a work folder's documents answer; raise ArtifactError without such a stage."""
    folder = work / STAGE
    record = recorded(folder)
    if record is None:
        raise ArtifactError(
            f"{work}: no stage `{STAGE}` is recorded in it",
            hint="`demitasse know RECIPE` makes it from the documents of a recipe",
        )
    return Known(
        name=work.resolve().name,
        figures=KnowledgeFigures.read(record.figures),
        questions=tuple(read_found(folder / FOUND)),
        ledger=read_ledger(work),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What the stages of a work folder without documents read."""

    name: str
    """Name of the work folder."""
    ledger: Ledger


def read_made(work: Path) -> Made | None:
    """Return what a work folder's stages read; None for one that `know` has a page of."""
    if recorded(work / STAGE) or not (ledger := read_ledger(work)).sources:
        return None
    return Made(name=work.resolve().name, ledger=ledger)


def read_ledger(work: Path) -> Ledger:
    """Return what the stages of a work folder read, in the order of their names."""
    records = (recorded(folder) for folder in sorted(work.iterdir()) if folder.is_dir())
    return total(record.ledger for record in records if record)


def interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` questions.

    E. B. Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not count:
        return 0.0, 1.0
    middle = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def measured(known: Known) -> list[tuple[str, ...]]:
    """Return what was measured: its name, on the questions of the fit, and on the fresh ones.

    The last is on the fresh ones as if nobody had written questions for their passages.
    """
    figures = known.figures
    both = (figures.tuning, figures.fresh, figures.fresh_bare)
    rows = []
    for what, name, answerable in (
        ("right passage first", "first", True),
        ("right passage among three", "among_three", True),
        ("answered rightly", "right", True),
        ("answered with another passage that answers too", "also", True),
        ("answered with a passage that does not answer", "wrong", True),
        ("answered, though the documents do not say it", "false", False),
    ):
        cells = [
            ""
            if scores is None
            else _share(
                getattr(scores, name), scores.answerable if answerable else scores.unanswerable
            )
            for scores in both
        ]
        rows.append((what, *(cell or "not measured" for cell in cells)))
    return rows


def _share(share: float, count: int) -> str:
    if not count:
        return ""
    low, high = interval(share, count)
    return f"{share:.1%} of {count} ({low:.0%} … {high:.0%})"


def origin(known: Known) -> list[tuple[str, str]]:
    """Return what was read and made, and how the search was fitted."""
    figures = known.figures
    fitted = figures.fitted
    tuned = ", tuned on the questions" if figures.tuned else ""
    return [
        ("passages", f"{figures.passages:,}, found by {figures.questions:,} questions as well"),
        ("questions without an answer", f"{figures.unanswered:,} are known as such"),
        ("index", f"{figures.index_bytes / 1e6:.1f} MB"),
        (
            "embedder",
            f"{figures.embedder_bytes / 1e6:.1f} MB, {figures.width} numbers in a vector{tuned}",
        ),
        ("share of words in a score", _number(fitted.get("words"))),
        ("share of other passages in a certainty", _number(fitted.get("next"))),
        ("temperature at which they count", _number(fitted.get("rivalry"))),
        ("share of unanswered questions in it", _number(fitted.get("unanswered"))),
        ("least certainty of an answer", _number(fitted.get("threshold"))),
        ("added to a passage without questions", _number(fitted.get("bare"))),
        ("added more where it speaks against another", _number(fitted.get("bare_next"))),
        ("least certainty of an answer from it", _number(fitted.get("bare_threshold"))),
    ]


def _number(value: float | None) -> str:
    return "not fitted" if value is None else f"{value:.3g}"


def files(known: Known) -> Sequence[tuple[str, str]]:
    """Return each file and what it gave."""
    return sorted(known.figures.files.items())


def unread(known: Known) -> Sequence[str]:
    """Return the files that were not read whole, each with the reason."""
    return [f"{name}: {gave}" for name, gave in files(known) if not _PASSAGES.fullmatch(gave)]
