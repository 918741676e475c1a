"""Which model ships, and why, in words."""

from collections.abc import Mapping, Sequence

from toolchain.align.figures import ALIGNED, BEFORE, CONTROL, Mark
from toolchain.preferences import Change, change, interval, least_shown
from toolchain.recipe import AlignSpec
from toolchain.training.probe import lost_words


def decide(
    spec: AlignSpec,
    marks: Mapping[str, Mark],
    followed: Mapping[str, Sequence[bool]],
    learned: int,
) -> tuple[str, str]:
    """Return which model ships, and why.

    The better one of aligned model and control, if it follows more than the model that came in and
    has not lost more than `max_lost` points of exact match.
    """
    before = marks[BEFORE]
    if not (trained := {name: mark for name, mark in marks.items() if name != BEFORE}):
        return BEFORE, f"too few: {_too_few(before, learned)}; the model stays as it is"

    scores = "; ".join(f"{name} {_words(mark)}" for name, mark in marks.items())
    kept = {
        name: mark
        for name, mark in trained.items()
        if mark.forgotten is None or not mark.forgotten.is_more_than(spec.max_forgotten)
    }
    if not kept:
        return BEFORE, (
            f"{spec.loss} from {learned} preferences forgets more than `max_forgotten`: "
            f"{spec.max_forgotten:g} points; {scores}; the model stays as it is"
        )
    fit = {name: mark for name, mark in kept.items() if _lost(before, mark) <= spec.max_lost}
    if not fit:
        least = min(_lost(before, mark) for mark in kept.values())
        return BEFORE, (
            f"{spec.loss} from {learned} preferences loses {least:.1f} points of exact match, "
            f"more than `max_lost`: {spec.max_lost:g}; {scores}; the model stays as it is"
        )

    best = max(fit, key=lambda name: (fit[name].followed or 0.0, name == CONTROL))
    gain = change(followed[BEFORE], followed[best])
    if not gain.is_gain:
        return BEFORE, (
            f"too few, or nothing learned: {_gain(gain, best)}; {scores}; the model stays as it is"
        )
    return best, (
        f"{spec.loss} from {learned} preferences: {_gain(gain, best)}; {scores}; "
        f"the {_NAMES[best]} ships"
    )


_NAMES = {ALIGNED: "aligned model", CONTROL: "control, tuned on the wanted answers alone,"}


def _too_few(before: Mark, learned: int) -> str:
    low, high = interval(before.preferences, before.preferences)
    if not before.preferences:
        return f"{learned} preferences to learn from, and none held out"
    return (
        f"{learned} preferences to learn from and {before.preferences} held out, "
        f"of which the model follows {_words(before)}; "
        f"even {before.preferences} of {before.preferences} would say "
        f"no more than {low:.0%} to {high:.0%}, and {least_shown()} new ones are the least "
        "that is more than chance"
    )


def _gain(gain: Change, name: str) -> str:
    return (
        f"{name} follows {100 * gain.mean:+.1f} points of held-out preferences "
        f"(95 % interval {100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    )


def _lost(before: Mark, after: Mark) -> float:
    """Return the percentage points of exact match that were lost."""
    first, last = before.exam.exact_match, after.exam.exact_match
    return 0.0 if first is None or last is None else round(100 * (first - last), 6)


def _words(mark: Mark) -> str:
    if mark.followed is None:
        return "not asked"
    text = (
        f"{mark.followed:.1%} of {mark.preferences} "
        f"(95 % interval {mark.followed_low:.0%} to {mark.followed_high:.0%})"
    )
    if mark.exam.exact_match is not None:
        text += f", exact match {mark.exam.exact_match:.1%} of {mark.exam.questions}"
    return f"{text}, {lost_words(mark.forgotten)}" if mark.forgotten else text
