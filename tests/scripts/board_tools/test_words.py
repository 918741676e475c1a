"""Numbers in words, and which one they count."""

import pytest

from scripts.board_tools.words import in_words, ordinal


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (99, "ninety-nine"), (100, "a hundred")],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


@pytest.mark.parametrize(
    ("number", "short", "words"),
    [
        (1, "1st", "first"),
        (2, "2nd", "second"),
        (3, "3rd", "third"),
        (5, "5th", "fifth"),
        (8, "8th", "eighth"),
        (9, "9th", "ninth"),
        (11, "11th", "eleventh"),
        (12, "12th", "twelfth"),
        (13, "13th", "thirteenth"),
        (20, "20th", "twentieth"),
        (23, "23rd", "twenty-third"),
        (40, "40th", "fortieth"),
    ],
)
def test_ordinals(number: int, short: str, words: str) -> None:
    assert ordinal(number, words=False) == short
    assert ordinal(number, words=True) == words
