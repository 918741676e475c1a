"""Passages without questions, fitted on hand-made comparisons."""

import pytest

from toolchain.knowledge.bare import as_if_bare, fit_with_bare, right_bare
from toolchain.knowledge.fitting import DEFAULT, Trial, candidates, scores
from toolchain.runtime.recall import Compared


def trial(right: int, *, text: float = 0.6, wrong: float = 0.3, other: float = 0.65) -> Trial:
    """Return a question that finds passage 1; as if bare by `text`, beside 2 by `other`."""
    return Trial(
        compared=Compared(
            like={1: 0.9, 2: other},
            common={1: 0.5, 2: 0.0},
            unanswered=0.0,
            texts={1: (text, 0.1), 2: (wrong, 0.0)},
        ),
        right=frozenset({right} - {0}),
    )


def unknown() -> Trial:
    compared = Compared(
        like={1: 0.3, 2: 0.3},
        common={1: 0.0, 2: 0.0},
        unanswered=0.0,
        texts={1: (0.1, 0.0), 2: (0.1, 0.0)},
    )
    return Trial(compared=compared, right=frozenset())


def test_a_bare_passage_is_compared_by_its_own_text_alone() -> None:
    compared = as_if_bare(trial(1), [1]).compared
    assert (compared.like, compared.common) == ({1: 0.6, 2: 0.65}, {1: 0.1, 2: 0.0})
    assert compared.thin == {1: 1.0}


def test_a_bare_passage_whose_text_is_not_near_is_not_found() -> None:
    compared = as_if_bare(
        Trial(
            compared=Compared(like={1: 0.9}, common={1: 0.0}, unanswered=0.0), right=frozenset({1})
        ),
        [1],
    ).compared
    assert not compared.like


def test_what_is_fitted_answers_from_a_bare_passage_that_was_refused() -> None:
    trials = [*(trial(1) for _ in range(40)), *(unknown() for _ in range(40))]
    usual = candidates(trials)[0].fitted
    bare = fit_with_bare(trials)
    before, after = scores(right_bare(trials), usual), scores(right_bare(trials), bare)
    assert before
    assert after
    assert (before.first, before.right) == (0.0, 0.0)
    assert (after.first, after.right, after.wrong, after.false) == (1.0, 1.0, 0.0, 0.0)
    assert scores(trials, bare) == scores(trials, usual)


def test_bare_passages_decide_between_fits_that_are_nearly_as_good_for_the_others() -> None:
    """Words in common bring one question more, and put bare passages behind: the more that must be
    added to these puts them before passages that answer.
    """
    shared = Compared(
        like={1: 0.9, 2: 0.5},
        common={1: 1.0, 2: 1.0},
        unanswered=0.0,
        texts={1: (0.55, 0.0), 2: (0.4, 1.0)},
    )
    usual = [Trial(compared=shared, right=frozenset({1})) for _ in range(40)]
    # A twentieth of the passages is bare in each trial: here always the one that does not answer.
    beside = [
        Trial(
            compared=Compared(
                like={50: 0.7, bare: 0.2},
                common={50: 0.0, bare: 0.0},
                unanswered=0.0,
                texts={bare: (0.6, 0.0)},
            ),
            right=frozenset({50}),
        )
        for bare in (20 - number % 20 for number in range(40, 80))
    ]
    words = Compared(like={3: 0.5, 4: 0.6}, common={3: 0.9, 4: 0.0}, unanswered=0.0)
    trials = [*usual, *beside, Trial(compared=words, right=frozenset({3}))]

    best, chosen = candidates(trials)[0].fitted, fit_with_bare(trials)
    assert best["words"] > 0.1 > chosen["words"]
    for asked in (right_bare(usual), trials):
        measured = scores(asked, chosen)
        assert measured
        assert measured.right > 0.98


def test_texts_that_tell_nothing_are_refused_and_not_answered_wrongly() -> None:
    """A bare passage's text is no nearer than that of a wrong one, which is bare too."""
    misled = [as_if_bare(trial(1, text=0.6, wrong=0.7, other=0.4), [2]) for _ in range(40)]
    measured = scores(right_bare(misled), fit_with_bare(misled))
    assert measured
    assert measured.wrong <= 0.05


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [unknown() for _ in range(9)],
        [as_if_bare(trial(1), [1, 2]) for _ in range(9)],
    ],
)
def test_without_questions_for_a_passage_all_are_treated_alike(trials: list[Trial]) -> None:
    fitted = fit_with_bare(trials)
    assert (fitted["bare"], fitted["bare_next"]) == (0.0, 0.0)
    assert fitted["bare_threshold"] == fitted["threshold"]
    assert fit_with_bare([]) == DEFAULT
