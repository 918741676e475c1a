"""A search that nobody fitted refuses what is as far from it as questions of common knowledge."""

import pytest

from toolchain.knowledge.fitting import DEFAULT, Trial, judge
from toolchain.knowledge.unfitted import MOST, common_questions, with_limit
from toolchain.runtime.recall import Compared


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


@pytest.mark.parametrize(("likeness", "limit"), [(0.95, MOST), (-0.5, -0.499999)])
def test_the_limit_is_theirs_but_no_higher_than_common_knowledge(
    likeness: float, limit: float
) -> None:
    fitted = with_limit(DEFAULT, [trial(likeness)] * 30)
    assert fitted["threshold"] == fitted["bare_threshold"] == limit


def test_of_two_passages_that_are_as_near_none_is_sure() -> None:
    fitted = with_limit(DEFAULT, [trial(0.3)] * 30)
    alone = Compared(like={1: 0.45, 2: 0.2}, common={1: 0.0, 2: 0.0}, unanswered=0.0)
    rivals = Compared(like={1: 0.45, 2: 0.44}, common={1: 0.0, 2: 0.0}, unanswered=0.0)
    assert judge(alone, fitted).known
    assert not judge(rivals, fitted).known


ENGLISH = "The door of the workshop is locked at six, and the key is with the porter."
SHORT = "工作室的门六点上锁，钥匙在门卫那里，请提前登记。"
CHINESE = SHORT * 2
GERMAN = "Die Tür der Werkstatt wird um sechs abgeschlossen, und der Schlüssel ist beim Pförtner."


FIRST = {
    ENGLISH: "What is the capital of France?",
    GERMAN: "Wie heißt die Hauptstadt von Frankreich?",
    CHINESE: "法国的首都是哪里？",
}


@pytest.mark.parametrize("text", FIRST)
def test_common_questions_are_in_the_language_of_most_documents(text: str) -> None:
    others = [each for each in FIRST if each != text]
    asked = common_questions([text, text, *others])
    assert asked[0].question == FIRST[text]
    assert len({each.question for each in asked}) == len(asked) >= 40
    assert not any(each.right or each.also for each in asked)


def test_texts_that_are_too_short_to_tell_are_told_together() -> None:
    assert common_questions([SHORT] * 3)[0].question == FIRST[CHINESE]


@pytest.mark.parametrize("texts", [[], ["12"], ["Η πόρτα του εργαστηρίου κλειδώνει στις έξι."]])
def test_where_a_language_has_no_questions_english_ones_are_asked(texts: list[str]) -> None:
    assert common_questions(texts)[0].question == FIRST[ENGLISH]
