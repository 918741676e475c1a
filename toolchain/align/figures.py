"""Figures of learning from preferences: what each model scored, and which one ships."""

from dataclasses import dataclass, field

from toolchain.figures import FLAT, Forgotten, StageFigures, TrainFigures
from toolchain.training.exam import ExamFigures

BEFORE, ALIGNED, CONTROL = "before", "aligned", "control"
"""The three models: the one that came in, and the two that were trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresFigures(StageFigures):
    """What the cached log-probabilities are of."""

    preferences: int
    too_long: int
    """Preferences that were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(StageFigures):
    """What one model scored on held-out preferences and on the recipe's held-out questions."""

    exam: ExamFigures = field(metadata=FLAT)
    preferences: int
    """Held-out preferences."""
    followed: float | None
    """Share of them that the model's own answer follows; None where none is held out."""
    followed_low: float
    """Lower end of the 95 % interval."""
    followed_high: float
    ranked: float | None = None
    """Share of held-out pairs whose wanted answer is likelier by token."""
    wanted_log_prob: float | None = None
    """Mean log-probability of a token of the wanted answers, in nats."""
    forgotten: Forgotten | None = None
    """Right answers to general questions, of the model that came in and of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMark(StageFigures):
    """What a trained model scored, and what its training took."""

    mark: Mark = field(metadata=FLAT)
    training: TrainFigures = field(metadata=FLAT)
    """Its loss is a mean over preferences, for the control over tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignFigures(StageFigures):
    """What was learned from preferences, and which of three models ships."""

    shipped: str
    """`aligned`, `control`, or `before`: the model that came in."""
    verdict: str
    """Which one ships, and why, in words."""
    loss: str
    pairs: int
    thumbs: int
    """Rated answers without another to compare with."""
    learned: int
    dropped: dict[str, int]
    """Reason → number of preferences that were left out."""
    before: Mark
    aligned: TrainedMark | None = None
    control: TrainedMark | None = None
    trained_tokens: int | None = None
