"""Two rounds side by side: what they learned, how they answer, and what was forgotten."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import recorded
from toolchain.errors import ArtifactError
from toolchain.figures import DatasetFigures, KnowledgeFigures, VerdictFigures

GATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is recorded of one round; None for what it does not have."""

    name: str
    train: int | None = None
    """Conversations that were learned."""
    held_out: int | None = None
    passages: int | None = None
    """Passages that questions are answered from."""
    right: float | None = None
    """Share of fresh questions that the documents answer rightly."""
    exact_match: float | None = None
    f1: float | None = None
    forgotten: float | None = None
    """Percentage points that the answers to the questions of the round before got worse."""
    forgotten_error: float | None = None


def read_round(work: Path) -> Round:
    """Return the round of a work folder; raise ArtifactError if nothing is recorded there."""
    data, known = recorded(work / "ingest"), recorded(work / "know")
    verdicts = [record for folder in _gates(work) if (record := recorded(folder))]
    if not (data or known or verdicts):
        raise ArtifactError(
            f"{work}: no stage is recorded in it",
            hint="name a work folder, such as build/help-desk",
        )
    dataset = DatasetFigures.read(data.figures) if data else None
    knowledge = KnowledgeFigures.read(known.figures) if known else None
    searched = knowledge and (knowledge.fresh or knowledge.tuning)
    verdict = VerdictFigures.read(verdicts[0].figures) if verdicts else None
    lost = verdict.forgotten if verdict else None
    return Round(
        name=work.resolve().name,
        train=dataset.train if dataset else None,
        held_out=dataset.held_out if dataset else None,
        passages=knowledge.passages if knowledge else None,
        right=searched.right if searched else None,
        exact_match=verdict.measured.exact_match if verdict else None,
        f1=verdict.measured.f1 if verdict else None,
        forgotten=lost.points if lost else None,
        forgotten_error=100 * lost.error if lost else None,
    )


def _gates(work: Path) -> Iterator[Path]:
    """Yield the folders of gates; that of the first format comes first."""
    yield from sorted(work.glob(f"{GATE}*"))
