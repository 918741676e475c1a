"""What `distill.py` trains: its arms, and the sizes of a run."""

from dataclasses import dataclass, replace

from toolchain.recipe import ScratchSpec

CONTROL = "control, all labels"
LABELS, TRUE, QUESTIONS = "labels", "true answers", "written questions"
TUNED = ("model, agreed", "model, all")
SEARCHES = {"by words": 1, "by words, twice": 2, "by meanings": 1}
"""Rounds of each search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is learned, from which start and how, and for which shares of the control's steps."""

    text: str
    """Who answers the pool, or `LABELS` for labels alone."""
    shares: tuple[float, ...]
    from_teacher: bool = False
    """Whether it starts from layers of the tuned teacher, and not of the base."""
    rate: float = 1.0
    """Factor of the learning rate."""
    batch: float = 1.0
    """Factor of the batch, with as many rows in all."""
    learned: int = 0
    """Tokens of a written answer that are learned; 0: all of it."""


ARMS = {
    CONTROL: Arm(text=TRUE, shares=(1 / 3, 2 / 3, 1.0)),
    "control, twice the rate": Arm(text=TRUE, shares=(1 / 3, 1.0), rate=2.0),
    "control, half the batch": Arm(text=TRUE, shares=(1 / 3, 1.0), batch=0.5),
    "control, labels": Arm(text=LABELS, shares=(1.0,)),
    "search by meanings": Arm(text="by meanings", shares=(1 / 3, 2 / 3, 1.0, 4 / 3)),
    "search by words": Arm(text="by words", shares=(1.0,)),
    "search by words, twice": Arm(text="by words, twice", shares=(1.0,)),
    "twice the rate": Arm(text="by meanings", shares=(1 / 3, 1.0), rate=2.0),
    "half the batch": Arm(text="by meanings", shares=(1 / 3, 1.0, 4 / 3), batch=0.5),
    "layers of the tuned teacher": Arm(text="by meanings", shares=(1 / 3, 1.0), from_teacher=True),
    "beginnings of answers": Arm(text="by meanings", shares=(1 / 3, 1.0), learned=8),
    "written questions": Arm(text=QUESTIONS, shares=(1 / 3, 1.0)),
    **{name: Arm(text=name, shares=(1.0,), from_teacher=True) for name in TUNED},
}
AGAIN = ("control, half the batch", "half the batch")
"""Arms of every seed: with the first one both sides were best so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes of a run."""

    seeds: int = 3
    entries: int = 208
    """Answers of the help desk, of 415."""
    questions: int = 208
    """Held-out phrasings that are asked, at most."""
    scratch: ScratchSpec
    arms: tuple[str, ...]
    """Those of the first seed."""
    again: tuple[str, ...] = AGAIN
    layers: int = 2
    epochs: int = 6
    """Of the control."""
    teacher_epochs: int = 16
    batch_size: int = 16
    learning_rate: float = 2e-3
    max_tokens: int = 96
    """Of a written answer."""


FULL = Plan(
    arms=tuple(name for name in ARMS if name not in TUNED),
    scratch=ScratchSpec(
        vocab_size=2048, hidden_size=256, layers=3, steps=700, batch_size=16, context=128
    ),
)
_BIG = (CONTROL, "control, labels", "search by words, twice")
BIG = replace(
    FULL,
    arms=(*_BIG, *TUNED),
    again=_BIG,
    entries=415,
    questions=415,
    layers=12,
    batch_size=32,
    learning_rate=6e-4,
    teacher_epochs=8,
)
"""With a base of 100 M parameters or more, where nothing but it need be installed."""
QUICK = Plan(
    seeds=1,
    entries=6,
    questions=6,
    arms=tuple(name for name, arm in ARMS.items() if arm.text != "by meanings"),
    again=(CONTROL, "search by words"),
    scratch=ScratchSpec(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=32,
        heads=1,
        kv_heads=1,
        layers=3,
        steps=10,
        batch_size=8,
        context=128,
    ),
    epochs=2,
    teacher_epochs=2,
    max_tokens=8,
)
