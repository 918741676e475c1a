"""Fits what a search cannot know: how much words count, and where the documents stop knowing.

All is fitted on questions that were written for that, never on those that measure. For each share
of words, of other passages and of unanswered questions, and for each temperature at which other
passages speak against the first one, the least certainty is taken at which at most `MAX_FALSE` of
the questions without an answer count as known, and at most `MAX_WRONG` of the others are answered
with a passage that does not answer them. They are chosen together: those that keep the most
answers, and of equals those that find most.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from device.manifest.knowledge import Ranked, Weights, certainty, is_known, rank
from toolchain.figures import SearchScores
from toolchain.knowledge.table import Table, against
from toolchain.runtime.recall import Compared

if TYPE_CHECKING:
    import numpy as np

Fitted = Mapping[str, float]
"""Names and values of `Weights`, as the index keeps them."""

WORD_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
UNANSWERED_SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0, 1.25, 1.5)
AGAINST_SHARES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 12.0, 18.0)
RIVALRIES = (0.0125, 0.025, 0.05)
# Half of the shipped `tuning.jsonl` was fitted with and the other half measured, six times both
# ways, for three embedders of one recipe (seeds 0 to 2): 77.5 % right, 3.9 % wrong, 5.0 % false.
# With the score of the second passage against the first instead: 75.4, 4.0 and 5.2 %.

# Both limits are lower than those of the usual gate (0.05): what was fitted is a little worse
# elsewhere.
MAX_FALSE = 0.04
"""Share of questions without an answer that may count as known while fitting."""
MAX_WRONG = 0.025
"""Share of the other questions that may be answered with a wrong passage while fitting; one at the
least, so that a few questions do not decide that nothing is known."""
NEARLY = 0.965
"""Share of the most right answers that a candidate keeps, at least."""
DEFAULT = {
    "words": 0.15,
    "unanswered": 1.0,
    "next": 0.0,
    "rivalry": 0.0,
    "threshold": 0.0,
    "bare": 0.0,
    "bare_next": 0.0,
    "bare_threshold": 0.0,
}
"""Where nobody wrote questions to fit with: passages are found, and none is refused unless a
question without an answer is nearer."""
# Words in common tell facts of one subject apart, and are all that is left of a language which the
# embedder was not made for. With 0.15 in place of 0.05, 62 % of 190 blind questions for sections of
# a manual were answered rightly (58) and 17 % wrongly (21), and 84 % of 43 in three languages for a
# folder of 30 files rightly (72). Of 289 that share no word with their answer by design 14 % were
# (18).


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
    """Score, less shares of what speaks against it."""
    known: bool
    """Whether the passage counts as an answer."""


def judge(compared: Compared, fitted: Fitted) -> Judged:
    """Return what a fitted search makes of a question, as the board does."""
    return _judged(ranked(compared, fitted), compared, Weights(**fitted))


def _judged(best: Sequence[Ranked], compared: Compared, weights: Weights) -> Judged:
    """Return what is made of a question whose passages are ranked."""
    first = best[0] if best else Ranked(0, -1.0, 0.0)
    sure = certainty(best, compared.unanswered, weights)
    known = is_known(best, sure, weights)
    return Judged(passage=first.passage, score=first.score, certainty=sure, known=known)


def hits(trials: Sequence[Trial], fitted: Fitted, places: int) -> float:
    """Return the share of answerable questions with a right passage among the first places."""
    asked = [(trial, ranked(trial.compared, fitted)) for trial in trials if trial.right]
    return _share_of_hits(asked, places)


def _share_of_hits(asked: Sequence[tuple[Trial, Sequence[Ranked]]], places: int) -> float:
    """Return the share of answerable questions, ranked, with a right passage among the first."""
    found = sum(any(each.passage in trial.right for each in best[:places]) for trial, best in asked)
    return found / max(1, len(asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The best fit with one share of words and one temperature."""

    fitted: Fitted
    kept: int
    """Right answers that it keeps."""
    found: int
    """Questions whose right passage is the first, answered or not."""


def candidates(trials: Sequence[Trial]) -> list[Candidate]:
    """Return the fits that keep nearly as many right answers as the best one, the best first."""
    if not any(trial.right for trial in trials):
        return [Candidate(fitted=DEFAULT, kept=0, found=0)]
    table = Table.of(trials)
    each = [_best(first, words) for words in WORD_SHARES for first in _Firsts.of(table, words)]
    each.sort(key=lambda one: (-one.kept, -one.found))
    return [one for one in each if one.kept >= NEARLY * each[0].kept]


def _best(first: "_Firsts", words: float) -> Candidate:
    """Return the fit of these shares that keeps most."""
    best, kept = {"next": 0.0, "unanswered": 0.0, "threshold": 0.0}, -1
    for share, unanswered in product(AGAINST_SHARES, UNANSWERED_SHARES):
        threshold, count = first.threshold(share, unanswered)
        if count > kept:
            kept = count
            best = {"next": share, "unanswered": unanswered, "threshold": round(threshold, 6)}
    fitted = DEFAULT | best
    fitted |= {"words": words, "rivalry": first.rivalry, "bare_threshold": best["threshold"]}
    return Candidate(fitted=fitted, kept=kept, found=int(first.answers.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Firsts:
    """What stands first for the trials, in arrays of [trials]."""

    score: "np.ndarray"
    against: "np.ndarray"
    """How much other passages speak against it."""
    rivalry: float
    """Temperature of that."""
    unanswered: "np.ndarray"
    answers: "np.ndarray"
    """Whether the first passage answers the question."""
    has_answer: "np.ndarray"

    @classmethod
    def of(cls, table: Table, words: float) -> "list[_Firsts]":
        """Return what stands first when words count with this weight, for each temperature."""
        import numpy as np

        scores = table.scores(words)
        rows = np.arange(len(scores))
        first = scores.argmax(axis=1)
        return [
            cls(
                score=scores[rows, first],
                against=against(scores, scores[rows, first], rivalry),
                rivalry=rivalry,
                unanswered=table.unanswered,
                answers=table.answers[rows, first],
                has_answer=table.has_answer,
            )
            for rivalry in RIVALRIES
        ]

    def threshold(self, share: float, unanswered: float) -> tuple[float, int]:
        """Return the least certainty that counts, and how many right answers it keeps."""
        sure = self.score - share * self.against - unanswered * self.unanswered
        right = sure[self.answers]
        false, wrong = sure[~self.has_answer], sure[self.has_answer & ~self.answers]
        asked = len(right) + len(wrong)
        limit = max(
            _refused(false, int(MAX_FALSE * len(false))),
            _refused(wrong, math.ceil(MAX_WRONG * asked)),
            float(right.min(initial=math.inf)) - 1e-6 if len(right) else 0.0,
        )

        # In the middle between the first that is refused and the next that is sure.
        above = float(right[right > limit].min(initial=math.inf))
        threshold = (limit + above) / 2 if above < math.inf else limit + 1e-6
        return threshold, int((right >= threshold).sum())


def _refused(certainties: "np.ndarray", allowed: int) -> float:
    """Return the largest certainty that is refused if the `allowed` largest ones count as known."""
    import numpy as np

    if allowed >= len(certainties):
        return -math.inf
    return float(-np.sort(-certainties)[allowed])


def scores(trials: Sequence[Trial], fitted: Fitted) -> SearchScores | None:
    """Return how well a fitted search does; None without questions."""
    if not trials:
        return None
    weights = Weights(**fitted)
    best = [(trial, ranked(trial.compared, fitted)) for trial in trials]
    judged = [(trial, _judged(each, trial.compared, weights)) for trial, each in best]
    found = [(trial, each) for trial, each in best if trial.right]
    asked = [(each, trial) for trial, each in judged if trial.right]
    others = [each.known for trial, each in judged if not trial.right]
    answered = [(each.passage, trial) for each, trial in asked if each.known]
    right = sum(passage in trial.right for passage, trial in answered)
    also = sum(passage in trial.also - trial.right for passage, trial in answered)
    count = max(1, len(asked))
    return SearchScores(
        answerable=len(asked),
        unanswerable=len(others),
        first=_share_of_hits(found, 1),
        among_three=_share_of_hits(found, 3),
        right=right / count,
        also=also / count,
        wrong=(len(answered) - right - also) / count,
        false=sum(others) / max(1, len(others)),
    )
