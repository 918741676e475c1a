"""Which of several formats of one model stays on a board: by what was measured there.

`fastest` is what a person who waits notices; the gate has already refused files that are too bad.
Where the measurement shows no difference in speed, quality decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from toolchain.artifacts import Report
from toolchain.report import compare, test_name

Choose = Literal["fastest", "best"]
"""Value of a recipe's `choose`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a model file is, by the gate that it passed; None for what was not measured."""

    kl: float | None = None
    """Mean KL divergence from the reference, in nats a token."""
    kl_error: float = 0.0
    """Standard error of `kl`."""
    agreement: float | None = None
    exact_match: float | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One format of a model on a board."""

    name: str
    quality: Quality
    report: Report

    @property
    def decode_tok_s(self) -> float:
        """Median tokens a second of an answer."""
        return float(next(row["median_ts"] for row in self.report.rows if row["n_gen"]))


def choose(rivals: Sequence[Rival], how: Choose) -> tuple[int, str]:
    """Return the number of the rival that stays, and why in a sentence."""
    numbers = range(len(rivals))
    if len(rivals) == 1:
        return 0, ""
    if any(rival.report.emulated for rival in rivals):
        best = _best(rivals)
        return best, f"{rivals[best].name} stays: the speed of an emulated board decides nothing"
    if how == "best":
        best = _best(rivals)
        return best, f"{rivals[best].name} stays: nearest to its reference{_kl(rivals[best])}"

    first = max(numbers, key=lambda number: rivals[number].decode_tok_s)
    alike = [number for number in numbers if number == first or _alike(rivals, first, number)]
    if len(alike) == 1:
        return first, f"{rivals[first].name} stays: it answers fastest{_mind(rivals)}"
    best = alike[_best([rivals[number] for number in alike])]
    others = " and ".join(rivals[number].name for number in alike if number != best)
    return best, (
        f"{rivals[best].name} stays: no difference in speed is shown to {others}, "
        f"and it is nearer to its reference{_kl(rivals[best])}"
    )


def _mind(rivals: Sequence[Rival]) -> str:
    """Return what speaks against a choice by speed; empty if nothing does."""
    # Seen on a busy computer: 82 % taken from two formats and 54 % from the third, which won.
    disturbed = any(rival.report.measured.get("contended") for rival in rivals)
    return ", while other programs ran: measure again on an idle board" if disturbed else ""


def _best(rivals: Sequence[Rival]) -> int:
    """Return the number of the rival with the least divergence, of equally good ones the fastest.

    If nobody measured it, it is the fastest of all.
    """
    known = [number for number, rival in enumerate(rivals) if rival.quality.kl is not None]
    if not known:
        return max(range(len(rivals)), key=lambda number: rivals[number].decode_tok_s)
    least = min((rivals[number] for number in known), key=_divergence)
    equal = [
        number
        for number in known
        if _divergence(rivals[number]) - _divergence(least)
        <= least.quality.kl_error + rivals[number].quality.kl_error
    ]
    return max(equal, key=lambda number: rivals[number].decode_tok_s)


def _divergence(rival: Rival) -> float:
    return rival.quality.kl or 0.0


def _alike(rivals: Sequence[Rival], one: int, other: int) -> bool:
    """Say whether the measurement shows no difference in how fast two rivals answer."""
    tests = compare(rivals[one].report, rivals[other].report)
    decode = {test_name(row) for row in rivals[one].report.rows if row["n_gen"]}
    return any(test.test in decode and test.low <= 1 <= test.high for test in tests)


def _kl(rival: Rival) -> str:
    return "" if rival.quality.kl is None else f" (KL {rival.quality.kl:.4f})"
