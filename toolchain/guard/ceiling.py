"""Two guards on the same texts: `guard.bin` as the floor, a guard model as the ceiling.

The model's threshold is fitted as the floor's is: at most `false_alarms` of the held-out questions
reach it, and of the safe texts of other subjects. The rule to keep: nothing counts for one of the
two that the other was not asked about.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from device.manifest.guard import Guard
from toolchain.artifacts import digest
from toolchain.guard.judging import GuardModel, Judged, judge, warning
from toolchain.guard.measures import Measured, auc, least
from toolchain.guard_figures import CeilingFigures, Counted, Told
from toolchain.preferences import change, interval
from toolchain.progress import Reporter

MOST = 300
"""Texts of one sort that both are asked about: a model takes up to seconds for one."""
_Z = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of one guard, in the order of the texts; a text is flagged from 0 on."""

    held_out: list[float]
    general: list[float]
    unsafe: list[float]


def beside(
    guard: Guard, measured: Measured, model: GuardModel, report: Reporter, seed: int
) -> CeilingFigures:
    """Return what a guard and a guard model tell of the texts that measured the guard.

    The model is asked on this computer, in a child process that ends here.
    """
    texts = drawn(measured, seed)
    with judge(model) as asked:
        found: list[Judged | None] = []
        every = [*texts.held_out, *texts.general, *(entry.text for entry in texts.unsafe)]
        for number, text in enumerate(every):
            report.step("guard: texts judged by the model", number, len(every), "texts")
            found.append(asked.judged(text))

    kept, margins = _kept(texts, found)
    said = [each.said for each in found if each]
    likely = sum(said) / max(1, len(said))
    if problem := warning(model.name, asked.form, likely):
        report.note(problem)
    ceiling, threshold = fitted(margins, measured.false_alarms)
    floor = Scores(
        held_out=[guard.score(text) for text in kept.held_out],
        general=[guard.score(text) for text in kept.general],
        unsafe=[guard.score(entry.text) for entry in kept.unsafe],
    )
    more = change([each >= 0 for each in floor.unsafe], [each >= 0 for each in ceiling.unsafe])
    return CeilingFigures(
        model=model.name,
        sha256=digest(model.file),
        size_bytes=model.file.stat().st_size,
        form=asked.form.name,
        said=round(likely, 4),
        threshold=round(threshold, 3),
        too_long=found.count(None),
        floor=told(floor),
        ceiling=told(ceiling),
        gain=round(more.mean, 4),
        gain_low=round(more.low, 4),
        gain_high=round(more.high, 4),
        by_kind=by_kind(kept, floor, ceiling),
    )


def drawn(measured: Measured, seed: int) -> Measured:
    """Return at most MOST texts of each sort, the same for each seed."""
    chosen = random.Random(seed)  # noqa: S311
    return replace(
        measured,
        held_out=chosen.sample(measured.held_out, min(MOST, len(measured.held_out))),
        general=chosen.sample(measured.general, min(MOST, len(measured.general))),
        unsafe=chosen.sample(measured.unsafe, min(MOST, len(measured.unsafe))),
    )


def _kept(texts: Measured, found: Sequence[Judged | None]) -> tuple[Measured, Scores]:
    """Return the texts that the model judged, and its margins, sort by sort."""
    answers = iter(found)
    held_out = [(text, next(answers)) for text in texts.held_out]
    general = [(text, next(answers)) for text in texts.general]
    unsafe = [(entry, next(answers)) for entry in texts.unsafe]
    return (
        replace(
            texts,
            held_out=[text for text, answer in held_out if answer],
            general=[text for text, answer in general if answer],
            unsafe=[entry for entry, answer in unsafe if answer],
        ),
        Scores(
            held_out=[answer.margin for _, answer in held_out if answer],
            general=[answer.margin for _, answer in general if answer],
            unsafe=[answer.margin for _, answer in unsafe if answer],
        ),
    )


def fitted(margins: Scores, false_alarms: float) -> tuple[Scores, float]:
    """Return scores above the threshold that safe texts set, and the threshold."""
    bounds = [least(each, false_alarms) for each in (margins.held_out, margins.general) if each]
    threshold = max(bounds, default=0.0)
    held_out, general, unsafe = (
        [each - threshold for each in of]
        for of in (margins.held_out, margins.general, margins.unsafe)
    )
    return Scores(held_out=held_out, general=general, unsafe=unsafe), threshold


def told(scores: Scores) -> Told:
    """Return what a guard tells, with intervals."""
    safe = [*scores.held_out, *scores.general]
    area = auc(scores.unsafe, safe)
    low, high = area_interval(area, len(scores.unsafe), len(safe))
    return Told(
        held_out=_counted(scores.held_out),
        general=_counted(scores.general),
        caught=_counted(scores.unsafe),
        auc=round(area, 4),
        auc_low=round(low, 4),
        auc_high=round(high, 4),
    )


def by_kind(texts: Measured, floor: Scores, ceiling: Scores) -> dict[str, dict[str, int]]:
    """Return for each category the number of unsafe texts, and how many each guard flags."""
    found: dict[str, dict[str, int]] = {}
    pairs = zip(floor.unsafe, ceiling.unsafe, strict=True)
    for entry, (below, above) in zip(texts.unsafe, pairs, strict=True):
        kind = entry.kind or "not named"
        counts = found.setdefault(kind, {"texts": 0, "floor": 0, "ceiling": 0})
        counts["texts"] += 1
        counts["floor"] += below >= 0
        counts["ceiling"] += above >= 0
    return dict(sorted(found.items()))


def _counted(scores: Sequence[float]) -> Counted:
    flagged = sum(score >= 0 for score in scores)
    low, high = interval(flagged, len(scores))
    return Counted(texts=len(scores), flagged=flagged, low=round(low, 4), high=round(high, 4))


def area_interval(area: float, unsafe: int, safe: int) -> tuple[float, float]:
    """Return the 95 % interval of an area under the curve.

    J. A. Hanley and B. J. McNeil 1982, "The meaning and use of the area under a ROC curve". Where
    all pairs are in order their error is 0, which a few texts do not prove: there it is that of as
    many texts as the rarer sort has.
    """
    fewest = min(unsafe, safe)
    if not 0 < area < 1 or not fewest:
        return interval(round(area * fewest), fewest)
    both_unsafe = area / (2 - area)
    both_safe = 2 * area**2 / (1 + area)
    spread = area * (1 - area)
    spread += (unsafe - 1) * (both_unsafe - area**2) + (safe - 1) * (both_safe - area**2)
    half = _Z * math.sqrt(max(0.0, spread) / (unsafe * safe))
    return max(0.0, area - half), min(1.0, area + half)
