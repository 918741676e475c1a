"""Fits what a search cannot know: how much words count, and where the documents stop knowing.

All is fitted on questions that were written for that, never on those that measure. For each share
of words, of the next passage and of unanswered questions, the least certainty is taken at which at
most `MAX_FALSE` of the questions without an answer count as known, and at most `MAX_WRONG` of the
others are answered with a passage that does not answer them. The shares are chosen together: those
that keep the most answers, and of equals those that find most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from device.manifest.knowledge import Ranked, Weights, certainty, is_known, rank
from toolchain.figures import SearchScores
from toolchain.runtime.recall import Compared

Fitted = Mapping[str, float]
"""Names and values of `Weights`, as the index keeps them."""

WORD_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
UNANSWERED_SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.25, 1.5)
NEXT_SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
# Both limits are lower than those of the usual gate (0.05): what was fitted is a little worse
# elsewhere. Measured on parts of the shipped `tuning.jsonl` that were left out of the fit (five
# parts, three times): 5.3 % false, 3.0 % wrong, 77 % answered rightly. With 0.04 for both, 4.1 %
# were wrong and 78 % right.
MAX_FALSE = 0.04
"""Share of questions without an answer that may count as known while fitting."""
MAX_WRONG = 0.03
"""Share of the other questions that may be answered with a wrong passage while fitting; one at the
least, so that a few questions do not decide that nothing is known."""
DEFAULT = {
    "words": 0.05,
    "unanswered": 1.0,
    "next": 0.0,
    "threshold": 0.0,
    "bare": 0.0,
    "bare_next": 0.0,
    "bare_threshold": 0.0,
}
"""Where nobody wrote questions to fit with: passages are found, and none is refused unless a
question without an answer is nearer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A question to fit with."""

    compared: Compared
    right: frozenset[int]
    """Passages that answer it; empty if none does."""
    also: frozenset[int] = frozenset()
    """Other passages that answer it too."""


def ranked(compared: Compared, fitted: Fitted) -> list[Ranked]:
    """Return passages with their scores, the best first, as the board ranks them."""
    return rank(compared.like, compared.common, compared.thin, Weights(**fitted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a fitted search makes of a question."""

    passage: int
    """Passage that comes first; 0 if none does."""
    score: float
    certainty: float
    """Score, less the shares of the next passage and of questions that no passage answers."""
    known: bool
    """Whether the passage counts as an answer."""


def judge(compared: Compared, fitted: Fitted) -> Judged:
    """Return what a fitted search makes of a question, as the board does."""
    weights = Weights(**fitted)
    best = ranked(compared, fitted)
    first = best[0] if best else Ranked(0, -1.0, 0.0)
    sure = certainty(best, compared.unanswered, weights)
    known = is_known(best, sure, weights)
    return Judged(passage=first.passage, score=first.score, certainty=sure, known=known)


def hits(trials: Sequence[Trial], fitted: Fitted, places: int) -> float:
    """Return the share of answerable questions with a right passage among the first places."""
    asked = [trial for trial in trials if trial.right]
    found = sum(
        any(each.passage in trial.right for each in ranked(trial.compared, fitted)[:places])
        for trial in asked
    )
    return found / max(1, len(asked))


def fit(trials: Sequence[Trial]) -> Fitted:
    """Return `words`, `unanswered`, `next` and `threshold`; bare passages count as the others."""
    if not any(trial.right for trial in trials):
        return DEFAULT
    best, fitted = (-1, -1), DEFAULT
    for words in WORD_SHARES:
        first = [_First.of(trial, words) for trial in trials]
        found = sum(each.answers for each in first)
        for following, unanswered in product(NEXT_SHARES, UNANSWERED_SHARES):
            threshold, kept = _threshold(first, following, unanswered)
            if (kept, found) > best:
                best = kept, found
                fitted = {
                    "words": words,
                    "unanswered": unanswered,
                    "next": following,
                    "threshold": round(threshold, 6),
                    "bare": 0.0,
                    "bare_next": 0.0,
                    "bare_threshold": round(threshold, 6),
                }
    return fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """What stands first for a trial."""

    ranked: tuple[Ranked, ...]
    """The first passage and the next one."""
    unanswered: float
    answers: bool
    """Whether the first passage answers the question."""
    has_answer: bool

    @classmethod
    def of(cls, trial: Trial, words: float) -> "_First":
        """Return what stands first when words count with this weight."""
        compared = trial.compared
        best = rank(compared.like, compared.common, {}, Weights(words=words))[:2]
        passage = best[0].passage if best else 0
        return cls(
            ranked=tuple(best),
            unanswered=compared.unanswered,
            answers=passage in trial.right | trial.also,
            has_answer=bool(trial.right),
        )


def _threshold(first: Sequence[_First], following: float, unanswered: float) -> tuple[float, int]:
    """Return the least certainty that counts, and how many right answers it keeps."""
    weights = Weights(next=following, unanswered=unanswered)
    sure = [(certainty(each.ranked, each.unanswered, weights), each) for each in first]
    right = [value for value, each in sure if each.answers]
    false = [value for value, each in sure if not each.has_answer]
    wrong = [value for value, each in sure if each.has_answer and not each.answers]
    asked = len(right) + len(wrong)
    limits = (
        _refused(false, int(MAX_FALSE * len(false))),
        _refused(wrong, math.ceil(MAX_WRONG * asked)),
        min(right, default=0.0) - 1e-6,
    )

    # In the middle between the first that is refused and the next that is sure.
    limit = max(limits)
    above = min((value for value in right if value > limit), default=limit)
    threshold = (limit + above) / 2 if above > limit else limit + 1e-6
    return threshold, sum(value >= threshold for value in right)


def _refused(certainties: Sequence[float], allowed: int) -> float:
    """Return the largest certainty that is refused if the `allowed` largest ones count as known."""
    return sorted(certainties, reverse=True)[allowed] if allowed < len(certainties) else -math.inf


def scores(trials: Sequence[Trial], fitted: Fitted) -> SearchScores | None:
    """Return how well a fitted search does; None without questions."""
    if not trials:
        return None
    judged = [(trial, judge(trial.compared, fitted)) for trial in trials]
    asked = [(each, trial) for trial, each in judged if trial.right]
    others = [each.known for trial, each in judged if not trial.right]
    answered = [(each.passage, trial) for each, trial in asked if each.known]
    right = sum(passage in trial.right for passage, trial in answered)
    also = sum(passage in trial.also - trial.right for passage, trial in answered)
    count = max(1, len(asked))
    return SearchScores(
        answerable=len(asked),
        unanswerable=len(others),
        first=hits(trials, fitted, 1),
        among_three=hits(trials, fitted, 3),
        right=right / count,
        also=also / count,
        wrong=(len(answered) - right - also) / count,
        false=sum(others) / max(1, len(others)),
    )
