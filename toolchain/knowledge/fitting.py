"""Fits what a search cannot know: how much words count, and where the documents stop knowing.

Both are fitted on questions that were written for that, never on those that measure. For each share
of words and each share of the likeness to unanswered questions, the least certainty is taken at
which at most `MAX_FALSE` of the questions without an answer count as known. The two shares are
chosen together: those that keep the most right answers, and of equals those that find most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolchain.figures import SearchScores
from toolchain.runtime.recall import Compared

Fitted = Mapping[str, float]
"""`words`, `unanswered` and `threshold`, as the index keeps them."""

WORD_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
UNANSWERED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
MAX_FALSE = 0.04
"""Share of questions without an answer that may count as known while fitting."""
# Lower than the usual limit of the gate (0.05): what was fitted is a little worse elsewhere.
DEFAULT = {"words": 0.05, "unanswered": 1.0, "threshold": 0.0}
"""Where nobody wrote questions to fit with: passages are found, and none is refused unless a
question without an answer is nearer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A question to fit with."""

    compared: Compared
    right: frozenset[int]
    """Passages that answer it; empty if none does."""


def ranked(compared: Compared, words: float) -> list[tuple[int, float]]:
    """Return passages and scores, the best first, as the board ranks them."""
    scores = {each: like + words * compared.common[each] for each, like in compared.like.items()}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a fitted search makes of a question."""

    passage: int
    """Passage that comes first; 0 if none does."""
    score: float
    certainty: float
    """Score, less the share of the closest question that no passage answers."""
    known: bool
    """Whether the passage counts as an answer."""


def judge(compared: Compared, fitted: Fitted) -> Judged:
    """Return what a fitted search makes of a question, as the board does."""
    passage, score = next(iter(ranked(compared, fitted["words"])), (0, -1.0))
    certainty = score - fitted["unanswered"] * compared.unanswered
    known = bool(passage) and certainty >= fitted["threshold"]
    return Judged(passage=passage, score=score, certainty=certainty, known=known)


def hits(trials: Sequence[Trial], words: float, places: int) -> float:
    """Return the share of answerable questions with a right passage among the first places."""
    asked = [trial for trial in trials if trial.right]
    found = sum(
        any(each in trial.right for each, _ in ranked(trial.compared, words)[:places])
        for trial in asked
    )
    return found / max(1, len(asked))


def fit(trials: Sequence[Trial]) -> Fitted:
    """Return `words`, `unanswered` and `threshold`."""
    if not any(trial.right for trial in trials):
        return DEFAULT
    best, fitted = (-1, -1), DEFAULT
    for words in WORD_SHARES:
        first = [_First.of(trial, words) for trial in trials]
        found = sum(each.is_right for each in first)
        for unanswered in UNANSWERED_SHARES:
            threshold, kept = _threshold(first, unanswered)
            if (kept, found) > best:
                best = kept, found
                fitted = {
                    "words": words,
                    "unanswered": unanswered,
                    "threshold": round(threshold, 6),
                }
    return fitted


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """What stands first for a trial."""

    score: float
    unanswered: float
    is_right: bool
    has_answer: bool

    @classmethod
    def of(cls, trial: Trial, words: float) -> "_First":
        """Return the passage that stands first when words count with this weight."""
        passage, score = next(iter(ranked(trial.compared, words)), (0, -1.0))
        return cls(
            score=score,
            unanswered=trial.compared.unanswered,
            is_right=passage in trial.right,
            has_answer=bool(trial.right),
        )


def _threshold(first: Sequence[_First], share: float) -> tuple[float, int]:
    """Return the least certainty that counts, and how many right answers it keeps."""
    sure = [each.score - share * each.unanswered for each in first if each.is_right]
    unsure = [each.score - share * each.unanswered for each in first if not each.has_answer]
    unsure.sort(reverse=True)
    allowed = int(MAX_FALSE * len(unsure))
    limit = unsure[allowed] if allowed < len(unsure) else min(sure, default=0.0) - 1e-6
    # In the middle between the first that is refused and the next that is sure.
    above = min((each for each in sure if each > limit), default=limit)
    threshold = (limit + above) / 2 if above > limit else limit + 1e-6
    return threshold, sum(each >= threshold for each in sure)


def scores(trials: Sequence[Trial], fitted: Fitted) -> SearchScores | None:
    """Return how well a fitted search does; None without questions."""
    if not trials:
        return None
    judged = [(trial.right, judge(trial.compared, fitted)) for trial in trials]
    asked = [(each.passage, each.known, right) for right, each in judged if right]
    others = [each.known for right, each in judged if not right]
    count = max(1, len(asked))
    words = fitted["words"]
    return SearchScores(
        answerable=len(asked),
        unanswerable=len(others),
        first=hits(trials, words, 1),
        among_three=hits(trials, words, 3),
        right=sum(known and best in right for best, known, right in asked) / count,
        wrong=sum(known and best not in right for best, known, right in asked) / count,
        false=sum(others) / max(1, len(others)),
    )
