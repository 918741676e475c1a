"""Trials as a table: the passages near each question, so that a fit tries thousands of weights.

The rule: a passage comes first, and others speak against it, as the board decides it
(device/manifest/knowledge.py: rank, against).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from toolchain.knowledge.fitting import Trial

_NO_PASSAGE = -9.0
"""Likeness where a trial has fewer passages than others: it speaks against none."""
_NOTHING_NEAR = -1.0
"""Likeness of the first passage of a trial that has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Trials and the passages near them: [trials, passages], filled up, by the passages' numbers.

    Of equal scores the first one counts, which is that of the lowest number, as on the board.
    """

    like: "np.ndarray"
    common: "np.ndarray"
    thin: "np.ndarray"
    answers: "np.ndarray"
    """Whether the passage answers the question."""
    has_answer: "np.ndarray"
    """[trials]"""
    unanswered: "np.ndarray"
    """[trials]"""

    @classmethod
    def of(cls, trials: "Sequence[Trial]") -> "Table":
        """Return the table of trials."""
        import numpy as np

        shape = len(trials), max((len(each.compared.like) for each in trials), default=0) or 1
        like, common, thin = np.full(shape, _NO_PASSAGE), np.zeros(shape), np.zeros(shape)
        answers = np.zeros(shape, bool)
        like[:, 0] = _NOTHING_NEAR
        for row, trial in enumerate(trials):
            compared = trial.compared
            passages = sorted(compared.like)
            count = len(passages)
            like[row, :count] = [compared.like[each] for each in passages]
            common[row, :count] = [compared.common[each] for each in passages]
            thin[row, :count] = [compared.thin.get(each, 0.0) for each in passages]
            answering = trial.right | trial.also
            answers[row, :count] = [each in answering for each in passages]
        return cls(
            like=like,
            common=common,
            thin=thin,
            answers=answers,
            has_answer=np.array([bool(trial.right) for trial in trials], bool),
            unanswered=np.array([trial.compared.unanswered for trial in trials], float),
        )

    def scores(self, words: float) -> "np.ndarray":
        """Return the scores of passages if words count with this weight, and bare ones nothing."""
        return self.like + words * self.common


def against(scores: "np.ndarray", first: "np.ndarray", temperature: float) -> "np.ndarray":
    """Return how much all passages of `scores` [trials, passages] speak against a first one.

    `first` is its own score, [trials]; it is one of `scores`.
    """
    import numpy as np

    top = scores.max(axis=1)
    apart = np.exp((scores - top[:, None]) / temperature)
    return np.asarray(top + temperature * np.log(apart.sum(axis=1)) - first)
