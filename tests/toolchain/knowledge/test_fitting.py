"""Weights and threshold of a search, fitted on hand-made comparisons."""

from collections.abc import Sequence
from dataclasses import replace

from toolchain.knowledge.fitting import DEFAULT, Fitted, Trial, candidates, hits, scores
from toolchain.runtime.recall import Compared


def trial(
    like: dict[int, float],
    right: int = 0,
    unanswered: float = 0.0,
    common: dict[int, float] | None = None,
) -> Trial:
    compared = Compared(
        like=like, common={**dict.fromkeys(like, 0.0), **(common or {})}, unanswered=unanswered
    )
    return Trial(compared=compared, right=frozenset([right] if right else []))


def fit(trials: Sequence[Trial]) -> Fitted:
    """Return the best fit where bare passages count as the others."""
    return candidates(trials)[0].fitted


def test_without_questions_nothing_is_fitted() -> None:
    assert fit([]) == DEFAULT
    assert scores([], DEFAULT) is None


def test_words_count_where_they_bring_the_right_passage_first() -> None:
    words = [trial({1: 0.60, 2: 0.59}, right=2, common={2: 0.9}) for _ in range(9)]
    assert hits(words, {"words": 0.0}, 1) == 0.0
    fitted = fit(words)
    assert fitted["words"] > 0.0
    assert hits(words, fitted, 1) == 1.0


def test_words_do_not_count_where_they_mislead() -> None:
    misled = [trial({1: 0.60, 2: 0.59}, right=1, common={2: 0.9}) for _ in range(9)]
    assert fit(misled)["words"] == 0.0


def test_the_threshold_lies_between_what_is_answered_and_what_is_not() -> None:
    known = [trial({1: 0.8}, right=1) for _ in range(20)]
    unknown = [trial({1: 0.5}) for _ in range(20)]
    fitted = fit([*known, *unknown])
    measured = scores([*known, *unknown], fitted)
    assert measured is not None
    assert 0.5 < fitted["threshold"] < 0.8
    assert (measured.right, measured.false) == (1.0, 0.0)


def test_a_near_question_without_an_answer_helps_where_likeness_alone_cannot_tell() -> None:
    known = [trial({1: 0.7}, right=1, unanswered=0.2) for _ in range(20)]
    unknown = [trial({1: 0.8}, unanswered=0.9) for _ in range(20)]
    fitted = fit([*known, *unknown])
    measured = scores([*known, *unknown], fitted)
    assert measured is not None
    assert fitted["unanswered"] > 0.0
    assert (measured.right, measured.wrong, measured.false) == (1.0, 0.0, 0.0)


def test_wrong_answers_are_few_though_right_ones_are_lost_for_it() -> None:
    sure = [trial({1: 0.9}, right=1) for _ in range(60)]
    unsure = [trial({1: 0.6}, right=number % 2 + 1) for number in range(40)]
    measured = scores([*sure, *unsure], fit([*sure, *unsure]))
    assert measured is not None
    assert (measured.right, measured.wrong) == (0.6, 0.0)


def test_a_second_passage_that_is_nearly_as_good_speaks_against_the_first() -> None:
    alone = [trial({1: 0.7, 2: 0.2}, right=1) for _ in range(50)]
    beside = [trial({1: 0.8, 2: 0.79}, right=2) for _ in range(10)]
    fitted = fit([*alone, *beside])
    measured = scores([*alone, *beside], fitted)
    assert measured is not None
    assert fitted["next"] > 0.0
    assert (measured.right, measured.wrong) == (50 / 60, 0.0)


def test_a_passage_that_answers_too_is_no_wrong_one_while_fitting() -> None:
    beside = [trial({1: 0.8, 2: 0.2}, right=2) for _ in range(10)]
    known = [replace(each, also=frozenset({1})) for each in beside]
    others = [trial({1: 0.1}) for _ in range(10)]
    measured = scores(known, fit([*known, *others]))
    assert measured is not None
    assert (measured.right, measured.also, measured.wrong) == (0.0, 1.0, 0.0)


def test_one_wrong_answer_among_a_few_questions_does_not_refuse_all() -> None:
    asked = [*(trial({1: 0.8}, right=1) for _ in range(9)), trial({1: 0.9}, right=2)]
    measured = scores(asked, fit(asked))
    assert measured is not None
    assert (measured.right, measured.wrong) == (0.9, 0.1)


def test_wrong_and_refused_answers_are_counted_apart() -> None:
    asked = [
        trial({1: 0.9}, right=1),
        trial({1: 0.9}, right=2),
        trial({1: 0.1}, right=1),
        trial({1: 0.9}),
        trial({1: 0.1}),
    ]
    measured = scores(asked, {"words": 0.0, "unanswered": 0.0, "next": 0.0, "threshold": 0.5})
    assert measured is not None
    assert (measured.answerable, measured.unanswerable) == (3, 2)
    assert (measured.right, measured.wrong) == (1 / 3, 1 / 3)
    assert measured.false == 0.5
    assert measured.first == 2 / 3


def test_a_question_that_finds_nothing_is_not_answered() -> None:
    measured = scores([trial({}, right=1), trial({})], DEFAULT)
    assert measured is not None
    assert (measured.right, measured.wrong, measured.false) == (0.0, 0.0, 0.0)
