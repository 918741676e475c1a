"""`found.jsonl` beside an index: what each fresh question found, for people who read a report.

One JSON object a line, in the order of the questions.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from device.manifest.knowledge import title
from toolchain.errors import ArtifactError
from toolchain.files import write_whole
from toolchain.knowledge.fitting import Fitted, Trial, judge

if TYPE_CHECKING:
    from toolchain.knowledge.passages import Passage

FOUND = "found.jsonl"
Outcome = Literal["right", "also", "wrong", "refused", "false", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPassage:
    """What a question found."""

    question: str
    right: tuple[str, ...]
    """Titles of the passages that answer it; empty if none does."""
    found: str
    """Title of the passage that came first; empty if none came."""
    score: float
    certainty: float
    """Score, less the share of the closest question that no passage answers."""
    known: bool
    """Whether the passage counts as an answer."""
    outcome: Outcome
    """`right` or `wrong` passage as the answer, another one that answers `also`, `refused` though a
    passage answers it, `false` answer to a question without one, rightly `unknown`."""


def title_of(passage: "Passage") -> str:
    """Return the title with which a board names a passage."""
    return title(passage.source, passage.page, passage.heading)


def found_passage(
    question: str, trial: Trial, passages: "Sequence[Passage]", fitted: Fitted
) -> FoundPassage:
    """Return what a question found by a fitted search."""
    judged = judge(trial.compared, fitted)
    return FoundPassage(
        question=question,
        right=tuple(title_of(passages[number - 1]) for number in sorted(trial.right)),
        found=title_of(passages[judged.passage - 1]) if judged.passage else "",
        score=round(judged.score, 4),
        certainty=round(judged.certainty, 4),
        known=judged.known,
        outcome=_outcome(judged.passage, trial, known=judged.known),
    )


def _outcome(best: int, trial: Trial, *, known: bool) -> Outcome:
    if not trial.right:
        return "false" if known else "unknown"
    if not known:
        return "refused"
    if best in trial.right:
        return "right"
    return "also" if best in trial.also else "wrong"


def write_found(file: Path, rows: Sequence[FoundPassage]) -> None:
    """Write what was found, a line each."""
    write_whole(file, "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows))


def read_found(file: Path) -> list[FoundPassage]:
    """Return what was found, empty without the file; raise ArtifactError for another shape."""
    if not file.is_file():
        return []
    adapter = TypeAdapter(FoundPassage)
    rows = []
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                rows.append(adapter.validate_json(line))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}") from error
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise ArtifactError(
            f"{file.name}:{len(rows) + 1}: {reason}", hint="run the stage `know` again"
        ) from error
    return rows
