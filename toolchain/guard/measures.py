"""How well a guard tells unsafe texts from safe ones, and the threshold that follows from that."""

import math
import random
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from device.manifest.guard import LENGTHS, Guard
from device.manifest.guard_text import plain
from toolchain.guard.disguises import DISGUISES
from toolchain.guard.texts import Entry
from toolchain.guard_figures import GuardFigures, Share

_LONGER = 600
"""Number of longer texts that are put together from safe ones, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Texts that a guard is measured with, none of which it learned."""

    held_out: list[str]
    """Held-out questions of the recipe."""
    general: list[str]
    """Safe texts of other subjects."""
    unsafe: list[Entry]
    learned: dict[str, int]
    """Number of entries that it learned: `unsafe`, `safe`."""
    false_alarms: float
    """Share of safe texts that may be flagged."""

    @property
    def safe(self) -> list[str]:
        """All safe texts."""
        return [*self.held_out, *self.general]


def thresholds(guard: Guard, measured: Measured) -> tuple[float, ...]:
    """Return for each length the least margin at which few enough safe texts are flagged.

    Of the recipe's own questions of this length, alone and put together to longer texts; and of the
    texts of other subjects, short ones and longer ones. The more cautious one counts.
    """
    own: list[list[float]] = [[] for _ in range(len(LENGTHS) + 1)]
    for text in (*measured.held_out, *joined(measured.held_out)):
        own[bisect_left(LENGTHS, len(plain(text)))].append(_worst(guard, text))
    other: list[list[float]] = [[], []]
    for text in measured.general:
        other[len(plain(text)) > LENGTHS[0]].append(_worst(guard, text))
    lowest = [least(each, measured.false_alarms) for each in other]
    return tuple(
        max(lowest[number > 0], least(each, measured.false_alarms))
        for number, each in enumerate(own)
    )


def _worst(guard: Guard, text: str) -> float:
    """Return the highest margin of a text's windows and readings."""
    return max(margin for margin, _, _ in guard.margins(text))


def least(margins: Sequence[float], share: float) -> float:
    """Return the least margin that at most a share of the margins reach; 0 if there are no
    margins.
    """
    if not margins:
        return 0.0
    allowed = math.floor(share * len(margins) + 1e-9)
    highest = sorted(margins, reverse=True)[min(allowed, len(margins) - 1)]
    return math.nextafter(highest, math.inf)


def measure(guard: Guard, measured: Measured) -> GuardFigures:
    """Return a guard's figures on texts that it never saw."""
    unsafe = [entry.text for entry in measured.unsafe]
    scores = [guard.score(text) for text in unsafe]
    return GuardFigures(
        learned=measured.learned,
        thresholds=[round(each, 3) for each in guard.thresholds],
        held_out=_share(guard, measured.held_out),
        general=_share(guard, measured.general),
        caught=_share(guard, unsafe),
        auc=round(auc(scores, [guard.score(text) for text in measured.safe]), 4),
        right_category=_named(guard, measured.unsafe),
        by_length=_by_length(guard, measured, unsafe),
        disguised={
            name: _share(guard, map(change, unsafe)).share for name, change in DISGUISES.items()
        },
    )


def _share(guard: Guard, texts: Iterable[str]) -> Share:
    flags = [guard.score(text) >= 0 for text in texts]
    return Share(texts=len(flags), share=round(sum(flags) / max(1, len(flags)), 4))


def _named(guard: Guard, entries: Sequence[Entry]) -> Share:
    known = [entry for entry in entries if entry.kind]
    verdicts = [(entry.kind, guard.judge(entry.text)) for entry in known]
    caught = [(kind, verdict) for kind, verdict in verdicts if verdict.flagged]
    right = sum(kind in verdict.categories for kind, verdict in caught)
    return Share(texts=len(caught), share=round(right / max(1, len(caught)), 4))


def _by_length(
    guard: Guard, measured: Measured, unsafe: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Return the figures of each length; long texts are made of several safe ones.

    In a long unsafe text, one wish stands among safe ones.
    """
    longer = joined(measured.held_out)
    hidden = [
        f"{before} {text} {after}"
        for text, before, after in zip(unsafe, longer, reversed(longer), strict=False)
    ]
    found = {}
    for name, is_of in _lengths():
        texts = [text for text in (*measured.safe, *longer) if is_of(text)]
        wishes = [text for text in (*unsafe, *hidden) if is_of(text)]
        false, caught = _share(guard, texts), _share(guard, wishes)
        found[name] = {
            "safe": false.texts,
            "false_alarms": false.share,
            "unsafe": caught.texts,
            "caught": caught.share,
        }
    return found


def joined(texts: Sequence[str]) -> list[str]:
    """Return longer texts: 2 to 9 of these, one after the other."""
    if len(texts) < 2:
        return []
    drawn = random.Random(len(texts))  # noqa: S311
    sizes = [2 + number % 8 for number in range(min(_LONGER, 2 * len(texts)))]
    return [" ".join(drawn.sample(texts, min(size, len(texts)))) for size in sizes]


def _lengths() -> list[tuple[str, Callable[[str], bool]]]:
    bounds = (0, *LENGTHS)
    found = [
        (f"{low + 1} to {high}", partial(_is_between, low, high)) for low, high in pairwise(bounds)
    ]
    return [*found, (f"over {bounds[-1]}", partial(_is_between, bounds[-1], sys.maxsize))]


def _is_between(low: int, high: int, text: str) -> bool:
    return low < len(text) <= high


def auc(unsafe: Sequence[float], safe: Sequence[float]) -> float:
    """Return how often an unsafe score lies above a safe one; equal ones count half."""
    if not unsafe or not safe:
        return 0.5
    ordered = sorted(safe)
    above = sum(bisect_left(ordered, score) + bisect_right(ordered, score) for score in unsafe)
    return above / (2 * len(unsafe) * len(safe))
