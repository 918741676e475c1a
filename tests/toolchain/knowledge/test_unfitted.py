"""A search that nobody fitted refuses what is as far from it as questions of common knowledge."""

from pathlib import Path

import pytest

from toolchain.knowledge.fitting import DEFAULT, Trial, judge
from toolchain.knowledge.passages import CJK, Passage
from toolchain.knowledge.unfitted import (
    CHINESE,
    MOST,
    general_file,
    general_questions,
    with_limit,
)
from toolchain.runtime.recall import Compared
from toolchain.training.probe import QUESTIONS


def trial(likeness: float) -> Trial:
    compared = Compared(like={1: likeness}, common={1: 0.0}, unanswered=0.0)
    return Trial(compared=compared, right=frozenset())


def test_at_most_one_general_question_in_twenty_five_is_answered() -> None:
    general = [trial(0.002 * number) for number in range(200)]
    fitted = with_limit(DEFAULT, general)
    known = [judge(each.compared, fitted).known for each in general]
    assert sum(known) == 8 == 0.04 * len(known)
    assert known[-8:] == [True] * 8


def test_equal_likeness_is_refused() -> None:
    general = [trial(0.3) for _ in range(50)]
    fitted = with_limit(DEFAULT, general)
    assert not any(judge(each.compared, fitted).known for each in general)
    assert judge(trial(0.31).compared, fitted).known


@pytest.mark.parametrize(("likeness", "limit"), [(0.95, MOST), (-0.5, 0.000001)])
def test_the_limit_stays_within_what_cosines_mean(likeness: float, limit: float) -> None:
    fitted = with_limit(DEFAULT, [trial(likeness)] * 30)
    assert fitted["threshold"] == fitted["bare_threshold"] == limit


@pytest.mark.parametrize(("file", "count"), [(QUESTIONS, 204), (CHINESE, 84)])
def test_general_questions_have_no_passage(file: Path, count: int) -> None:
    asked = general_questions(file)
    assert len({each.question for each in asked}) == count
    assert not any(each.right or each.also for each in asked)


def test_documents_in_chinese_are_asked_in_chinese() -> None:
    english = Passage(text="Open the seacock before you start the engine.", source="a.md")
    chinese = Passage(
        text="进闸前先看信号灯，用 ssh pi@10.0.0.1 登录，绿灯才可以进入。", source="b.md"
    )
    assert general_file([chinese, chinese, english]) == CHINESE
    assert general_file([chinese, english]) == general_file([english]) == QUESTIONS
    assert all(CJK.search(each.question) for each in general_questions(CHINESE))
