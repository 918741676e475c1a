"""A search that nobody fitted refuses what is as far from it as questions of common knowledge."""

import pytest

from toolchain.knowledge.fitting import DEFAULT, Fitted, Trial, judge
from toolchain.knowledge.unfitted import MOST, common_questions
from toolchain.knowledge.unfitted import with_limit as with_weighted_limit
from toolchain.runtime.recall import Compared


def with_limit(fitted: Fitted, general: list[Trial]) -> Fitted:
    return with_weighted_limit(fitted, general, [1.0] * len(general))


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


def languages(texts: list[str]) -> dict[str, float]:
    """Return how much the questions in each language count together, for some documents."""
    counted: dict[str, float] = {}
    for each in common_questions(texts):
        assert not each.written.right
        assert not each.written.also
        code = next(
            (
                code
                for code, known in {"de": "Wie heißt", "zh": "首都", "en": "capital of"}.items()
                if known in each.written.question
            ),
            "other",
        )
        counted[code] = counted.get(code, 0.0) + each.weight
    return counted


def test_common_questions_are_in_the_languages_of_the_documents() -> None:
    assert set(languages([ENGLISH])) == {"en", "other"}
    assert set(languages([GERMAN])) == {"de", "other"}
    assert set(languages([GERMAN, CHINESE, ENGLISH])) == {"en", "de", "zh", "other"}
    assert set(languages([ENGLISH] * 99 + [CHINESE])) == {"en", "other"}
    assert set(languages([SHORT] * 3)) == {"zh", "other"}


@pytest.mark.parametrize("texts", [[], ["12"], ["Η πόρτα του εργαστηρίου κλειδώνει στις έξι."]])
def test_where_a_language_has_no_questions_english_ones_are_asked(texts: list[str]) -> None:
    assert "en" in languages(texts)
    assert len(common_questions(texts)) > 100


def test_a_language_counts_by_its_share_of_the_documents() -> None:
    texts = [GERMAN] * 3 + [CHINESE]
    total = sum(each.weight for each in common_questions(texts))
    assert total == pytest.approx(4.0)
    german = sum(each.weight for each in common_questions([GERMAN] * 3))
    assert german == pytest.approx(3.0)


def test_a_heavy_question_takes_what_is_allowed() -> None:
    general = [trial(0.1), *(trial(0.001 * number) for number in range(50))]
    light = with_weighted_limit(DEFAULT, general, [1.0] * 51)
    heavy = with_weighted_limit(DEFAULT, general, [10.0] + [1.0] * 50)
    assert light["threshold"] < 0.1 < heavy["threshold"]


def test_every_language_has_questions_enough_and_none_twice() -> None:
    for text in (ENGLISH, GERMAN, CHINESE):
        asked = [each.written.question for each in common_questions([text])]
        assert len(asked) >= 40
        assert len(set(asked)) == len(asked)
