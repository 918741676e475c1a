"""General questions: what is right, what is forgotten, and what is learned beside."""

from pathlib import Path

import pytest

from tests.fakes.datasets import Recorder, tiny_dataset
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.errors import ConfigError, GateError
from toolchain.recipe import TuneSpec
from toolchain.training.probe import (
    Question,
    beside,
    check_forgotten,
    forgotten,
    is_right,
    mixed,
    read_questions,
    read_talk,
    spread,
)
from toolchain.tune import TuneFigures, tune

ONE_LAYER = SMALL | {"layers": 1}


def asked(*answers: str) -> Question:
    return Question(question="?", answers=answers, subject="s")


@pytest.mark.parametrize(
    ("answers", "said", "right"),
    [
        (("Paris",), "The capital of France is Paris.", True),
        (("Paris",), "It is parisian.", False),
        (("42", "forty-two"), "6 × 7 = 42.", True),
        (("42", "forty-two"), "It is Forty Two!", True),
        (("42", "forty-two"), "It is 142.", False),
        (("100",), "Water boils at 100°C.", True),
        (("H2O",), "Water is H₂O", True),
        (("blue whale",), "The whale is blue", False),
        (("Sun",), "", False),
    ],
)
def test_an_answer_is_right_if_it_holds_the_words(
    answers: tuple[str, ...], said: str, right: bool
) -> None:
    assert is_right(asked(*answers), said) == right


def test_there_are_two_hundred_questions_and_none_holds_its_answer() -> None:
    questions = read_questions()
    assert len(questions) >= 200
    assert len({each.question.casefold() for each in questions}) == len(questions)
    assert [each.question for each in questions if is_right(each, each.question)] == []
    assert all(is_right(each, f"It is {each.answers[0]}.") for each in questions)


def test_what_may_be_learned_beside_asks_nothing_that_is_measured() -> None:
    talk = read_talk()
    said = [row["messages"][0]["content"].casefold() for row in talk]
    assert len(talk) >= 150
    assert len(set(said)) == len(said)
    assert set(said).isdisjoint(each.question.casefold() for each in read_questions())


def test_fewer_questions_are_spread_over_all_subjects() -> None:
    questions = read_questions()
    some = spread(questions, 40)
    assert len(some) == len(set(some)) == 40
    assert {each.subject for each in some} == {each.subject for each in questions}
    assert spread(questions, 1000) == questions


def test_what_is_forgotten_has_its_error() -> None:
    lost = forgotten([True] * 50 + [False] * 50, [True] * 40 + [False] * 50 + [True] * 10)
    assert (lost.before, lost.now, lost.points) == (0.5, 0.5, 0)
    assert lost.error == pytest.approx((20 / 99 / 100) ** 0.5)


def test_more_forgotten_than_allowed_is_refused_with_its_error() -> None:
    lost = forgotten([True] * 100, [True] * 80 + [False] * 20)
    assert check_forgotten("tune", lost, 20) == check_forgotten("tune", None, 0) == ""
    with pytest.raises(GateError) as refused:
        check_forgotten("tune", lost, 5)
    assert refused.value.message == (
        "tune: of 100 general questions 100.0% → 80.0% (± 4.0%): 20.0 points are forgotten, "
        "`max_forgotten` allows 5"
    )


def test_what_chance_may_explain_is_told_and_not_refused() -> None:
    lost = forgotten([True] * 100, [True] * 80 + [False] * 20)
    assert check_forgotten("tune", lost, 15) == (
        "tune: of 100 general questions 100.0% → 80.0% (± 4.0%): 20.0 points are forgotten, "
        "more than the 15 of `max_forgotten`, but no more than chance gives"
    )
    with pytest.raises(GateError):
        check_forgotten("tune", lost, 13)


def test_general_conversations_have_the_share_that_is_asked_for() -> None:
    own, talk = [{"own": at} for at in range(8)], [{"talk": at} for at in range(3)]
    assert mixed(own, talk, 0.0, 0) == own
    assert mixed(own, (), 0.0, 0) == own
    both = mixed(own, talk, 0.2, 0)
    assert (both[:8], len(both)) == (own, 10)
    again = mixed(own, talk, 0.5, 1)
    assert len(again) == 16
    assert {row["talk"] for row in again[8:]} == {0, 1, 2}


@pytest.mark.parametrize(("own", "share", "count"), [(8, 0.0, 0), (8, 0.5, 8), (4, 0.01, 1)])
def test_a_share_is_at_least_one_conversation(own: int, share: float, count: int) -> None:
    assert len(beside(own, "abc", share)) == count


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        mixed([{"own": 1}], (), 0.2, 0)
    assert refused.value.message == "general_share: there are no general conversations to learn"


def test_a_model_that_forgot_most_is_told_of_where_no_limit_forbids_it() -> None:
    lost = forgotten([True] * 112 + [False] * 88, [True] * 3 + [False] * 197)
    told = check_forgotten("distill", lost, 100, "learn more")
    assert told == (
        "distill: of 200 general questions 56.0% → 1.5% (± 3.5%): 54.5 points are forgotten, more "
        "than half of what it knew, and `max_forgotten` allows it: learn more"
    )
    some = forgotten([True] * 112 + [False] * 88, [True] * 50 + [False] * 150)
    assert check_forgotten("distill", some, 100) == ""
    assert check_forgotten("distill", forgotten([False] * 9, [False] * 9), 100) == ""


def test_tune_asks_before_and_after_and_learns_general_conversations_too(tmp_path: Path) -> None:
    dataset, report = tiny_dataset(tmp_path / "data"), Recorder()
    base = artifacts.external(tiny_llama(tmp_path / "base", **ONE_LAYER))
    spec = TuneSpec(
        r=4, epochs=1, batch_size=4, questions=2, general_questions=5, general_share=0.5
    )
    talk, questions = read_talk(), read_questions()
    made = tune(base, dataset, spec, tmp_path / "a", report, seed=0, questions=questions, talk=talk)
    figures = TuneFigures.read(made.record.figures)
    assert figures.conversations == 16
    assert figures.forgotten
    assert (figures.forgotten.questions, figures.forgotten.before) == (5, 0)
    assert "of 5 general questions 0.0% → 0.0%" in report.notes[-1]
    assert {"talk", "general_questions"} <= made.record.inputs.keys()
