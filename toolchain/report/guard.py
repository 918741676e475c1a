"""What a recipe's guard tells, beside a guard model where the recipe names one.

Read from the record of `guard`, which holds counts and no text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import recorded
from toolchain.guard_figures import CeilingFigures, Counted, GuardFigures, Share, Told

STAGE = "guard"
_ROWS = (
    ("held-out questions of the recipe: flagged", "held_out"),
    ("harmless texts of other subjects: flagged", "general"),
    ("unsafe texts that it never saw: flagged", "caught"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What the stage `guard` of a work folder measured."""

    name: str
    """Name of the work folder."""
    figures: GuardFigures


def read_guarded(work: Path) -> Guarded | None:
    """Return what a work folder's guard tells; None where no such stage is recorded."""
    record = recorded(work / STAGE)
    if record is None:
        return None
    return Guarded(name=work.resolve().name, figures=GuardFigures.read(record.figures))


def alone(figures: GuardFigures) -> Iterator[tuple[str, str]]:
    """Yield what the guard flags of all texts that measured it."""
    for words, name in _ROWS:
        share: Share = getattr(figures, name)
        yield words, f"{share.share:.1%} of {share.texts}"
    yield "unsafe above safe (AUC)", f"{figures.auc:.3f}"


def side_by_side(beside: CeilingFigures) -> Iterator[tuple[str, str, str]]:
    """Yield what both guards flag of the same texts, the guard first, with intervals."""
    both = (beside.floor, beside.ceiling)
    for words, name in _ROWS:
        floor, ceiling = (_counted(getattr(told, name)) for told in both)
        yield words, floor, ceiling
    floor, ceiling = (_area(told) for told in both)
    yield "unsafe above safe (AUC)", floor, ceiling


def kinds(beside: CeilingFigures) -> Iterator[tuple[str, str, str, str]]:
    """Yield each category: its unsafe texts, and how many of them each guard flags."""
    for kind, counts in beside.by_kind.items():
        yield kind, f"{counts['texts']}", f"{counts['floor']}", f"{counts['ceiling']}"


def sentences(beside: CeilingFigures) -> Iterator[str]:
    """Yield how the model was asked, what it gains, and what speaks against it."""
    yield (
        f"The model is {beside.model}, {beside.size_bytes / 1e6:,.0f} MB, asked in the form "
        f"{beside.form}; it judges on the host and does not travel."
    )
    yield (
        f"It flags {beside.gain:+.1%} of the unsafe texts "
        f"({beside.gain_low:+.1%} … {beside.gain_high:+.1%}), compared with the guard."
    )
    if beside.too_long:
        yield f"{beside.too_long} texts are longer than its context; neither was asked about them."


def _counted(counted: Counted) -> str:
    low, high = f"{counted.low:.1%}", f"{counted.high:.1%}"
    return f"{counted.share:.1%} of {counted.texts} ({low} … {high})"


def _area(told: Told) -> str:
    return f"{told.auc:.3f} ({told.auc_low:.3f} … {told.auc_high:.3f})"
