"""The search that writes answers: by words, in two rounds, and with meanings."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from toolchain.teaching.writers import How

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PAIRS = [
    ("how do I cool it", "A fan goes onto pins 4 and 6."),
    ("where does sound come out", "Out of the headphone jack."),
]


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as the benchmark imports it: from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("search_writer")


def asked(*questions: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": each}] for each in questions]


def test_the_search_answers_where_it_is_clear(search: ModuleType) -> None:
    said = search.SearchWriter(PAIRS, rounds=1).say(
        asked("how to cool it down", "zzz", "where is the sound jack"), How(max_tokens=1)
    )
    assert [each.whole for each in said] == [True, False, True]
    assert (said[0].text, said[2].text) == (PAIRS[0][1], PAIRS[1][1])


def test_a_second_round_asks_the_questions_that_were_clear(search: ModuleType) -> None:
    chain = asked("how to cool the board down", "put the board down slowly")
    once, twice = (
        search.SearchWriter(PAIRS, rounds=rounds).say(chain, How(max_tokens=1)) for rounds in (1, 2)
    )
    assert [each.whole for each in once] == [True, False]
    assert [each.whole for each in twice] == [True, True]
    assert twice[1].text == PAIRS[0][1]


def test_meanings_find_an_answer_that_shares_no_word_with_its_question(
    search: ModuleType,
) -> None:
    def embed(texts: Sequence[str]) -> np.ndarray:
        hears = [any(word in text for word in ("sound", "zzz")) for text in texts]
        return np.array([[float(each), float(not each)] for each in hears], np.float32)

    (said,) = search.SearchWriter(PAIRS, rounds=1, embed=embed).say(asked("zzz"), How(max_tokens=1))
    assert (said.text, said.whole) == (PAIRS[1][1], True)


def test_its_digest_says_whether_it_knows_meanings(search: ModuleType) -> None:
    by_words, by_meanings = (
        search.SearchWriter(PAIRS, rounds=1, embed=embed) for embed in (None, np.asarray)
    )
    assert by_words.digest != by_meanings.digest
