"""Canaries: made-up entries, each learned or not by the toss of a coin, and what guesses prove.

Whoever tells better than a training under (ε, δ) allows which of them were learned has shown that
ε is larger: the audit in one run of Steinke, Nasr and Jagielski (arXiv:2305.08846). The rule to
keep: the coins are the operating system's, and the number of guesses is fixed before anybody looks.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import read_jsonl, write_jsonl

FILE = "canaries.jsonl"
CONFIDENCE = 0.95
PLAIN_DELTA = 1e-5
"""δ of an audit of a training that claims nothing."""
DIGITS = 8
PRECISION = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A question and an answer that are nobody's."""

    question: str
    answer: str
    planted: bool
    """Whether it was learned."""

    @property
    def row(self) -> dict[str, Any]:
        """The conversation as training reads it."""
        asked = {"role": "user", "content": self.question}
        return {"messages": [asked, {"role": "assistant", "content": self.answer}]}


def make_canaries(count: int, draw: random.Random | None = None) -> list[Canary]:
    """Return so many canaries, about half of them to be planted; randomness is the system's."""
    draw = draw or random.SystemRandom()
    return [
        Canary(
            question=f"what is the code of locker {number}?",
            answer="".join(draw.choice("0123456789") for _ in range(DIGITS)),
            planted=draw.random() < 0.5,
        )
        for number in range(1, count + 1)
    ]


def write_canaries(file: Path, canaries: Iterable[Canary]) -> None:
    """Write canaries, with what the coins said."""
    write_jsonl(file, (asdict(each) for each in canaries))


def read_canaries(file: Path) -> list[Canary]:
    """Return the canaries of a file."""
    return [Canary(**row) for row in read_jsonl(file)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """How many canaries were guessed, and how many rightly."""

    canaries: int
    made: int
    right: int


def guess(canaries: Sequence[Canary], scores: Sequence[float]) -> Guesses:
    """Guess the likeliest third to be planted and the unlikeliest third not to be."""
    third = len(canaries) // 3
    order = sorted(range(len(canaries)), key=lambda at: -scores[at])
    planted, others = order[:third], order[len(order) - third :]
    right = sum(canaries[at].planted for at in planted)
    right += sum(not canaries[at].planted for at in others)
    return Guesses(canaries=len(canaries), made=2 * third, right=right)


def least_epsilon(guesses: Guesses, delta: float, confidence: float = CONFIDENCE) -> float:
    """Return the ε below which so many right guesses are less likely than 1 - `confidence`."""
    low, high = 0.0, 1.0
    if _chance(guesses, low, delta) > 1 - confidence:
        return 0.0
    while _chance(guesses, high, delta) <= 1 - confidence:
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        if _chance(guesses, middle, delta) <= 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def _chance(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return a bound of the probability of so many right guesses under (ε, δ): theorem 5.2."""
    share = 1 / (1 + math.exp(-epsilon))
    mass = [_binomial(guesses.made, right, share) for right in range(guesses.made + 1)]
    as_many = math.fsum(mass[guesses.right :])
    below = 0.0
    steepest = 0.0
    for missing in range(1, guesses.right + 1):
        below += mass[guesses.right - missing]
        steepest = max(steepest, below / missing)
    return as_many + 2 * guesses.canaries * delta * steepest


def _binomial(count: int, right: int, share: float) -> float:
    """Return the probability of so many right ones of a count."""
    ways = math.lgamma(count + 1) - math.lgamma(right + 1) - math.lgamma(count - right + 1)
    missed = (count - right) * math.log1p(-share) if right < count else 0.0
    return math.exp(ways + right * math.log(share) + missed)


def audit_words(audit: Mapping[str, Any]) -> str:
    """Return in words what an audit found; it may come from a manifest."""
    least = audit.get("epsilon_at_least")
    if not isinstance(least, int | float):
        return ""
    return (
        f"ε ≥ {least:.2f} by {audit.get('right')} of {audit.get('guesses')} right guesses about "
        f"{audit.get('canaries')} canaries"
        + ("" if audit.get("claimed") is not None else ", which it has learned: for an audit alone")
    )
