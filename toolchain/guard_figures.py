"""What the stage `guard` measures: of `guard.bin`, and of a guard model beside it."""

from dataclasses import dataclass

from toolchain.figures import StageFigures

LIKELY = 0.5
"""Share of probability that the two verdicts of a guard model have together, at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted(StageFigures):
    """How many of some texts are flagged."""

    texts: int
    flagged: int
    low: float
    """Lower end of the exact 95 % interval of the share."""
    high: float

    @property
    def share(self) -> float:
        """Share that is flagged."""
        return self.flagged / max(1, self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(StageFigures):
    """What one guard tells of the texts that both were asked about."""

    held_out: Counted
    """Held-out questions of the recipe."""
    general: Counted
    """Safe texts of other subjects."""
    caught: Counted
    """Unsafe texts."""
    auc: float
    """How often an unsafe text scores above a safe one; 0.5 is chance."""
    auc_low: float
    auc_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CeilingFigures(StageFigures):
    """A guard model beside `guard.bin`, on the same texts and with the same false alarms."""

    model: str
    """Its name in the recipe; it does not travel."""
    sha256: str
    size_bytes: int
    form: str
    """Name of the form in which it is asked."""
    said: float
    """Mean share of probability that its two verdicts have together; near 1 in a guard model."""
    threshold: float
    too_long: int
    """Texts that its context does not hold; neither guard is asked about them."""
    floor: Told
    ceiling: Told
    gain: float
    """Share of the unsafe texts that it catches more than `guard.bin`."""
    gain_low: float
    """Lower end of the 95 % interval of a sign test on the same texts."""
    gain_high: float
    by_kind: dict[str, dict[str, int]]
    """Category → number of unsafe `texts`, and how many `floor` and `ceiling` flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(StageFigures):
    """A share of some texts."""

    texts: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardFigures(StageFigures):
    """What a guard learned, and what it tells of texts that it never saw."""

    learned: dict[str, int]
    """Number of entries: `unsafe`, `safe`."""
    thresholds: list[float]
    """Of each length."""
    held_out: Share
    """Held-out questions of the recipe: the share that is flagged."""
    general: Share
    """Safe texts of other subjects: the share that is flagged."""
    caught: Share
    """Unsafe texts: the share that is flagged."""
    auc: float
    """How often an unsafe text scores above a safe one; 0.5 is chance."""
    right_category: Share
    """Unsafe texts that are flagged: the share whose category is named among theirs."""
    by_length: dict[str, dict[str, float]]
    """Characters → number of `safe` and `unsafe` texts, and the share of each that is flagged:
    `false_alarms`, `caught`."""
    disguised: dict[str, float]
    """Disguise → share of the unsafe texts that is flagged in it."""
    left_out: dict[str, dict[str, float]] | None = None
    """Source → number of its `texts`, and `auc` and `caught` of a guard that did not learn it; None
    where there is one source."""
    size_bytes: int = 0
    ceiling: CeilingFigures | None = None
    """Of a recipe that names a guard model: what it tells of the same texts."""

    def summary(self) -> dict[str, float]:
        """Return the figures of a source that was left out."""
        return {"texts": self.caught.texts, "auc": self.auc, "caught": self.caught.share}
