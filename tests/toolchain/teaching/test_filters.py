"""Which written answers are kept: agreed upon, supported by their passage, and answers at all."""

import pytest

from toolchain.teaching.filters import agree, is_nothing, is_supported

PASSAGE = (
    "A Raspberry Pi throttles its processor at 80 degrees. Plug the fan into pins 4 and 6, and "
    "use the official supply of 5.1 volt."
)


@pytest.mark.parametrize(
    ("answer", "supported"),
    [
        ("It throttles at 80 degrees.", True),
        ("Plugging in a fan helps: pins 4 and 6.", True),
        ("It throttles at 85 degrees.", False),
        ("Use a supply of 5,1 volt.", True),
        ("Use a supply of 51 volt.", False),
        ("Buy a bigger heatsink from the shop.", False),
        ("Yes.", True),
    ],
)
def test_an_answer_stands_in_its_passage_with_its_content_words_and_all_numbers(
    answer: str, supported: bool
) -> None:
    assert is_supported(answer, PASSAGE, 0.6) == supported


@pytest.mark.parametrize(
    ("answer", "supported"),
    [("超过八十度时会降频。", True), ("请马上购买新的电源。", False)],
)
def test_chinese_is_compared_by_characters(answer: str, supported: bool) -> None:
    assert is_supported(answer, "温度超过八十度时会降频，请检查风扇。", 0.8) == supported


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("It slows down at 80 degrees.", "it slows down at 80 degrees", True),
        ("It slows down at 80 degrees.", "It slows down at 85 degrees.", False),
        ("Use the official supply.", "Reboot the machine.", False),
        ("", "", True),
    ],
)
def test_two_answers_agree_by_their_words_and_never_with_other_numbers(
    first: str, second: str, same: bool
) -> None:
    assert agree(first, second, 0.8) == same


@pytest.mark.parametrize(
    ("answer", "nothing"),
    [("NOTHING", True), ("Nothing.", True), ("", True), ("...", True), ("Not at all.", False)],
)
def test_an_answer_that_says_that_there_is_none_is_none(answer: str, nothing: bool) -> None:
    assert is_nothing(answer) == nothing
