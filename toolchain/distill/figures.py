"""Figures of a distillation: what was known before it, and what each model scored after it."""

from dataclasses import dataclass, field

from toolchain.figures import FLAT, Forgotten, StageFigures, TrainFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitsFigures(StageFigures):
    """What the teacher's cached probabilities are of."""

    conversations: int
    positions: int
    top_k: int
    """Probabilities kept at each position."""
    tokens: int
    """Number of tokens of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(StageFigures):
    """What one of the models scored; None where nothing was held out to ask."""

    parameters: int
    held_out_loss: float | None
    """Nats per token of held-out answers."""
    questions: int
    exact_match: float | None
    f1: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedMark(StageFigures):
    """What a trained model scored, and what its training took."""

    general: int = 0
    """General conversations among what it learned."""
    mark: Mark = field(metadata=FLAT)
    training: TrainFigures = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeFigures(StageFigures):
    """What was asked before teaching, and what it says."""

    teacher_loss: float | None
    """Nats per token of held-out answers."""
    tenth_loss: float | None
    """The same of a control after a tenth of its steps."""
    entropy: float | None
    """Mean entropy of the teacher at learned tokens, in nats; None where its tokens are others."""
    unlabelled: int
    """Questions that only the teacher answered."""
    nothing_to_teach: bool
    verdict: str
    seconds: float
    """Seconds until it was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillFigures(StageFigures):
    """What student, controls and teacher scored, and which of the trained ones ships."""

    shipped: str
    """`student`, `control` or `longer control`."""
    verdict: str
    """Which one ships, and why, in words."""
    conversations: int
    """Labelled ones."""
    written: int = 0
    """Conversations that the teacher wrote; the student alone learns them."""
    too_long: int
    """Conversations that were left out."""
    layers: list[int] | None = None
    """Layers of the teacher that the student has."""
    influence: list[float] | None = None
    """How much each layer of the teacher changes what it reads, where they were chosen by it."""
    before: BeforeFigures | None = None
    """None where nothing was asked."""
    student: TrainedMark | None = None
    """None where there was nothing to teach."""
    control: TrainedMark
    """Trained on the same labels."""
    longer: TrainedMark | None = None
    """Control that was trained on the labels for as many operations as the student and its teacher
    took; None where these were those of the control."""
    compute_ratio: float | None = None
    """Operations of student and teacher over those of the control."""
    teacher: Mark
    forgotten: Forgotten | None = None
    """Right answers to general questions of the model that came in, and of the one that ships; None
    where none was asked."""
    best: TrainedMark = field(metadata=FLAT)
