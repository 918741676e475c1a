"""A wording is near another one by its letters; case and end marks do not count."""

import pytest

from scripts.board_tools.near import Measured

MEASURED = Measured(["Could you turn on the pump at pin 17?", "hi"])


@pytest.mark.parametrize(
    "text",
    ["could you turn on the pump at pin 17", "Could you turn on the pump at pin 23?", "HI!"],
)
def test_the_same_words_with_another_number_are_near(text: str) -> None:
    assert MEASURED.is_near(text)


@pytest.mark.parametrize("text", ["how full is the card", "the pump, please", ""])
def test_other_words_are_not_near(text: str) -> None:
    assert not MEASURED.is_near(text)
