"""Fits how a search treats passages for which nobody wrote questions: bare ones, new or edited.

Such a passage is compared by its own text alone. That is less like a question than other questions
are, so passages with many of them come before it, and their limit refuses it. The questions that
the search was fitted with are asked once more, as if their passage were bare and a few others, too.
What a bare passage's score gets added, what more speaks against others, and its limit are chosen so
that most answers are right, those of other passages included, within the limits of `fitting`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from device.manifest.knowledge import Weights
from toolchain.knowledge.fitting import MAX_FALSE, MAX_WRONG, Fitted, Trial, candidates
from toolchain.knowledge.table import Table, against

if TYPE_CHECKING:
    import numpy as np

EVERY = 20
"""One in so many of the other passages counts as bare too while fitting."""
# A new page is about a fiftieth of the shipped help desk. What was fitted with a tenth or a
# fiftieth instead answered two questions in a hundred more or less, of either kind.
BONUSES = tuple(0.05 * step for step in range(11))
AGAINST = tuple(0.1 * step for step in range(6))
LIMITS = 48
"""Limits of bare passages that are tried with each of these."""


def as_if_bare(trial: Trial, passages: Iterable[int]) -> Trial:
    """Return a trial as if nobody had written questions for some passages."""
    compared = trial.compared
    like, common, thin = dict(compared.like), dict(compared.common), dict(compared.thin)
    for passage in passages:
        for known in (like, common, thin):
            known.pop(passage, None)
        if passage in compared.texts:
            like[passage], common[passage] = compared.texts[passage]
            thin[passage] = 1.0
    return replace(trial, compared=replace(compared, like=like, common=common, thin=thin))


def right_bare(trials: Sequence[Trial]) -> list[Trial]:
    """Return trials as if nobody had written questions for the passages that answer them."""
    return [as_if_bare(trial, trial.right) for trial in trials]


def fit_with_bare(trials: Sequence[Trial]) -> Fitted:
    """Return what keeps most right answers in all: as the passages are, and with some of them bare.

    What is best for passages with questions alone may leave bare ones without any answer, and
    something else is nearly as good for the former. Where the questions to fit with ask for no
    passage that has questions, bare passages are treated as the others.
    """
    numbered = list(enumerate(trials))
    written = [(number, each) for number, each in numbered if _has_questions(each)]
    all_candidates = candidates(trials)
    if not written:
        return all_candidates[0].fitted

    new = [as_if_bare(each, _some(each, number) | each.right) for number, each in written]
    old = [as_if_bare(each, _some(each, number) - each.right) for number, each in numbered]
    tables = [Table.of(new), Table.of(old)]
    best, chosen = (-math.inf, 0), all_candidates[0].fitted
    for candidate in all_candidates:
        (beyond, kept), fitted = _fit_bare(tables, candidate.fitted)
        if (beyond, kept + candidate.kept) > best:
            best, chosen = (beyond, kept + candidate.kept), fitted
    return chosen


def _fit_bare(tables: Sequence[Table], fitted: Fitted) -> tuple[tuple[float, int], Fitted]:
    """Return the fitted facts with those of bare passages, and how good they are: 0 or, negative,
    by how many answers the limits are missed, and how many right answers are kept.
    """
    import numpy as np

    weights = Weights(**fitted)
    scored = [(table, table.scores(weights.words)) for table in tables]
    best, chosen = (-math.inf, 0), fitted
    for bonus, next_to in product(BONUSES, AGAINST):
        firsts = [_Firsts.of(table, scores, bonus, next_to, weights) for table, scores in scored]
        limits = _limits(firsts, weights.threshold)
        known = [each.known(weights.threshold, limits) for each in firsts]
        both = list(zip(firsts, known, strict=True))
        missed = np.sum([each.beyond(some) for each, some in both], axis=0)
        kept = np.sum([each.kept(some) for each, some in both], axis=0)
        # Of equally good limits the first one stays, as of the bonuses.
        at = min(range(len(limits)), key=lambda place: (missed[place], -kept[place]))
        if (-float(missed[at]), int(kept[at])) > best:
            best = -float(missed[at]), int(kept[at])
            least = weights.threshold + limits[at]
            facts = {"bare": bonus, "bare_next": next_to, "bare_threshold": least}
            chosen = {**fitted, **{name: round(value, 6) for name, value in facts.items()}}
    return best, chosen


def _limits(firsts: "Sequence[_Firsts]", threshold: float) -> list[float]:
    """Return what a bare passage may need more than the threshold, or less: from what lets all of
    those that come first answer to what lets none.
    """
    import numpy as np

    beyond = np.concatenate([each.beyond_by(threshold) for each in firsts])
    if not len(beyond):
        return [0.0]
    limits = [float(each) for each in np.quantile(beyond, np.linspace(0.0, 1.0, LIMITS))]
    return [*limits, limits[-1] + 1e-6]


def _has_questions(trial: Trial) -> bool:
    """Return whether a trial asks for a passage that has questions, and whose text is near."""
    compared = trial.compared
    return any(
        compared.thin.get(each, 0.0) < 1.0 and each in compared.texts for each in trial.right
    )


def _some(trial: Trial, number: int) -> frozenset[int]:
    """Return one in `EVERY` passages near a trial's question, others for the next trial."""
    near = trial.compared.like.keys() | trial.compared.texts.keys()
    return frozenset(each for each in near if (each + number) % EVERY == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Firsts:
    """What comes first for each trial; all are [trials]."""

    thin: "np.ndarray"
    answers: "np.ndarray"
    has_answer: "np.ndarray"
    certainty: "np.ndarray"

    @classmethod
    def of(
        cls, table: Table, plain: "np.ndarray", bonus: float, next_to: float, weights: Weights
    ) -> "_Firsts":
        """Return what comes first if bare passages get so much; a candidate has a temperature.

        `plain` are the table's scores without anything added for bare passages.
        """
        import numpy as np

        scores = plain + bonus * table.thin
        rows = np.arange(len(scores))
        first = scores.argmax(axis=1)
        thin = table.thin[rows, first]
        others = scores + next_to * np.maximum(0.0, table.thin - thin[:, None])
        lost = against(others, scores[rows, first], weights.rivalry)
        unanswered = weights.unanswered * table.unanswered
        return cls(
            thin=thin,
            answers=table.answers[rows, first],
            has_answer=table.has_answer,
            certainty=scores[rows, first] - weights.next * lost - unanswered,
        )

    def beyond_by(self, threshold: float) -> "np.ndarray":
        """Return by how much the certainty of each bare passage is above a threshold."""
        import numpy as np

        bare = self.thin > 0.0
        return np.asarray((self.certainty[bare] - threshold) / self.thin[bare])

    def known(self, threshold: float, limits: Sequence[float]) -> "np.ndarray":
        """Return what counts as known, [limits, trials]: bare passages need so much more."""
        import numpy as np

        least = threshold + np.array(limits)[:, None] * self.thin
        return np.asarray(self.certainty >= least)

    def beyond(self, known: "np.ndarray") -> "np.ndarray":
        """Return by how many answers the limits of a fit are missed, for each row of `known`."""
        import numpy as np

        wrong = (known & self.has_answer & ~self.answers).sum(axis=1)
        false = (known & ~self.has_answer).sum(axis=1)
        asked, others = int(self.has_answer.sum()), int((~self.has_answer).sum())
        return np.asarray(
            np.maximum(0, wrong - math.ceil(MAX_WRONG * asked))
            + np.maximum(0, false - int(MAX_FALSE * others))
        )

    def kept(self, known: "np.ndarray") -> "np.ndarray":
        """Return how many right answers are given, for each row of `known`."""
        import numpy as np

        return np.asarray((known & self.answers).sum(axis=1))
