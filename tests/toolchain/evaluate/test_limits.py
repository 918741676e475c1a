"""Limits of the gate: a sentence with the counts for each one that was missed."""

import math
from typing import Any

import pytest

from toolchain.evaluate.limits import failures
from toolchain.figures import Measured
from toolchain.recipe import GateSpec

GOOD: dict[str, Any] = {
    "kl_tokens": 400,
    "mean_kl": 0.02,
    "agreement": 0.97,
    "general_tokens": 1000,
    "general_kl": 0.05,
    "general_agreement": 0.9,
    "teacher_kl": 0.3,
    "teacher_agreement": 0.8,
    "questions": 12,
    "answer_tokens": 96,
    "exact_match": 0.75,
    "f1": 0.8,
    "eos_rate": 1.0,
    "template_chats": 12,
    "template_mismatches": 0,
}


def missed(figures: dict[str, Any], gate: GateSpec) -> list[str]:
    return failures(Measured.of(figures), gate)


STRICT = GateSpec(min_exact_match=0.6, min_f1=0.7)


def test_a_file_within_all_limits_misses_none() -> None:
    assert missed(GOOD, STRICT) == []


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (
            {"mean_kl": 0.34},
            (
                "on held-out answers the mean KL divergence from the reference is 0.34 nats per "
                "token, the gate allows 0.1"
            ),
        ),
        (
            {"agreement": 0.89},
            "on held-out answers file and reference name the same next token at 356 of 400 "
            "positions (89%), "
            "the gate asks 90%",
        ),
        (
            {"general_kl": 1.25},
            (
                "on general text the mean KL divergence from the reference is 1.25 nats per "
                "token, the gate allows 0.5"
            ),
        ),
        (
            {"general_agreement": 0.62},
            "on general text file and reference name the same next token at 620 of 1000 "
            "positions (62%), "
            "the gate asks 70%",
        ),
        (
            {"teacher_kl": 4.5},
            (
                "on held-out answers the mean KL divergence from the teacher is 4.5 nats per "
                "token, the gate allows 1"
            ),
        ),
        (
            {"teacher_agreement": 0.1},
            "on held-out answers file and teacher name the same next token at 40 of 400 "
            "positions (10%), "
            "the gate asks 50%",
        ),
        (
            {"exact_match": 0.25},
            "3 of 12 answers (25%) are word for word the expected ones, the gate asks 60%",
        ),
        ({"f1": 0.5}, "the mean token F1 of 12 answers is 50%, the gate asks 70%"),
        (
            {"eos_rate": 9 / 12, "reference_eos_rate": 1.0},
            (
                "3 of 12 answers did not end within 96 tokens, of the reference's 0: "
                "25% (95% interval 5.5% to 57.2%) more, the gate allows 5%"
            ),
        ),
        (
            {"template_mismatches": 2},
            "2 of 12 conversations were not rendered as the model's own template and tokenizer do",
        ),
    ],
)
def test_a_missed_limit_is_a_sentence_with_its_counts(
    figures: dict[str, Any], sentence: str
) -> None:
    assert missed(GOOD | figures, STRICT) == [sentence]


def test_a_figure_that_is_no_number_misses_its_limit() -> None:
    sentences = missed(GOOD | {"mean_kl": math.nan, "general_kl": math.nan}, STRICT)
    assert [sentence.partition(" is ")[2][:3] for sentence in sentences] == ["nan", "nan"]


def test_a_share_that_is_just_missed_is_not_rounded_up_to_its_limit() -> None:
    assert "(89.99%), the gate asks 90%" in missed(GOOD | {"agreement": 0.8999}, STRICT)[0]


def test_answers_may_be_without_an_end_as_often_as_the_references_are() -> None:
    half = GOOD | {"eos_rate": 0.5, "reference_eos_rate": 0.5}
    assert missed(half, STRICT) == []
    assert missed(half | {"eos_rate": 2 / 12}, STRICT) == [
        (
            "10 of 12 answers did not end within 96 tokens, of the reference's 6: "
            "33.33% (95% interval 9.9% to 65.1%) more, the gate allows 5%"
        )
    ]
    assert missed(half | {"eos_rate": 7 / 12}, STRICT) == []


def test_a_drop_of_just_what_is_allowed_passes() -> None:
    twenty = GOOD | {"questions": 20, "eos_rate": 0.95, "reference_eos_rate": 1.0}
    assert missed(twenty, STRICT) == []


@pytest.mark.parametrize(
    ("questions", "lost", "refused"),
    [
        *((4, 1, False), (12, 1, False), (12, 2, False), (12, 3, True), (24, 4, False)),
        *((24, 5, True), (424, 30, False), (424, 31, True), (3000, 150, False), (3000, 180, True)),
    ],
)
def test_ends_are_lost_only_where_chance_does_not_explain_it(
    questions: int, lost: int, refused: bool
) -> None:
    asked = GOOD | {
        "questions": questions,
        "eos_rate": 1 - lost / questions,
        "reference_eos_rate": 1.0,
    }
    assert bool(missed(asked, STRICT)) == refused


def test_ends_that_the_file_gained_make_a_loss_less_sure() -> None:
    asked = GOOD | {"eos_rate": 7 / 12, "reference_eos_rate": 10 / 12}
    assert missed(asked | {"ends_gained": 0}, STRICT)
    assert missed(asked | {"ends_gained": 1}, STRICT) == []


def test_one_question_is_enough_where_no_answer_ends() -> None:
    asked = GOOD | {"questions": 1, "eos_rate": 0.0, "reference_eos_rate": 1.0}
    assert missed(asked, STRICT)


def test_without_a_reference_answers_that_do_not_end_are_held_against_the_file_itself() -> None:
    alone = {"questions": 1, "answer_tokens": 96, "eos_rate": 0.0, "exact_match": 0.0, "f1": 0.0}
    assert missed(alone, GateSpec()) == [
        "1 of 1 answers did not end within 96 tokens: "
        "100% (95% interval 2.5% to 100.0%), the gate allows 5%"
    ]


def test_a_recipe_may_ask_for_ends_whatever_the_reference_does() -> None:
    both = GOOD | {"eos_rate": 0.5, "reference_eos_rate": 0.5}
    assert missed(both, GateSpec(min_eos_rate=0.9)) == [
        "6 of 12 answers did not end within 96 tokens, the gate asks that 90% end"
    ]


def test_what_was_not_measured_has_no_limit() -> None:
    assert missed({}, GateSpec(min_exact_match=1.0, min_f1=1.0)) == []
