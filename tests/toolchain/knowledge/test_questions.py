"""What `fresh.jsonl` and `tuning.jsonl` promise: questions that share no words with their entry."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import snowballstemmer

FOLDER = Path(__file__).resolve().parents[3] / "recipes" / "help-desk"
SETS = ("fresh", "tuning")
# Words and pairs of characters without content, and names that have no synonym.
PLAIN = frozenset(Path(__file__).with_name("plain_words.txt").read_text(encoding="utf-8").split())
CHINESE = re.compile(r"[\u4e00-\u9fff]{2}")
_stem = snowballstemmer.stemmer("english").stemWord


def rows(name: str) -> list[dict[str, Any]]:
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def content(text: str) -> set[str]:
    """Return the stems of a text's content words; of Chinese, its pairs of characters."""
    words = re.findall(
        r"[a-z0-9]+", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "").replace("'", "")
    )
    stems = {_stem(word) for word in words if len(word) > 1 and word not in PLAIN}
    pairs = {text[at : at + 2] for at in range(len(text) - 1) if CHINESE.match(text, at)}
    return stems | (pairs - PLAIN)


def answerable(name: str) -> list[dict[str, Any]]:
    return [row for row in rows(name) if row["entry"] is not None]


@pytest.mark.parametrize("name", SETS)
def test_no_question_shares_a_content_word_with_the_starters_phrasings_of_its_entry(
    name: str,
) -> None:
    entries = [
        json.loads(line)
        for line in (FOLDER.parent / "starter" / "help-desk.jsonl").read_text().splitlines()
    ]
    for row in answerable(name):
        known = set().union(*map(content, entries[row["entry"]]["question"]))
        assert not content(row["question"]) & known, row["question"]


def test_no_fresh_question_shares_a_content_word_with_any_phrasing_of_the_documents() -> None:
    entries = rows("faq")
    for row in answerable("fresh"):
        known = set().union(*map(content, entries[row["entry"]]["question"]))
        assert not content(row["question"]) & known, row["question"]


@pytest.mark.parametrize(
    ("name", "answered", "chinese", "unanswered"),
    [("fresh", 150, 25, 50), ("tuning", 300, 35, 200)],
)
def test_there_are_enough_of_each_kind(
    name: str, answered: int, chinese: int, unanswered: int
) -> None:
    there = rows(name)
    assert len(answerable(name)) >= answered
    assert sum(row["lang"] == "zh" for row in answerable(name)) >= chinese
    without = [row for row in there if row["entry"] is None]
    assert len(without) >= unanswered
    assert sum(row["kind"] == "near" for row in without) * 2 >= len(without)


def test_no_question_stands_twice_or_is_trained_on() -> None:
    written = [row["question"] for name in ("faq", "questions") for row in rows(name)]
    known = {question.lower() for asked in written for question in asked}
    known |= {row["question"].lower() for row in rows("unanswered")}
    asked = [row["question"].lower() for name in SETS for row in rows(name)]
    assert len(set(asked)) == len(asked)
    # The shared ones alone: a person who writes questions must not read the other sets here.
    assert not sorted(known & set(asked))


def test_no_question_to_choose_with_is_nearly_one_to_measure_with() -> None:
    def words(row: dict[str, Any]) -> set[str]:
        return set(re.findall(r"[a-z0-9']+|[\u4e00-\u9fff]", row["question"].lower()))

    measured = [words(row) for row in rows("fresh")]
    close = [
        number
        for number, chosen in enumerate(map(words, rows("tuning")))
        if any(len(chosen & asked) >= 0.6 * len(chosen | asked) for asked in measured)
    ]
    assert close == []


def test_a_shared_stem_is_seen() -> None:
    assert content("My fans were spinning") & content("the fan spins")
    assert content("太热") & content("树莓派太热了")
    assert not content("How do I use my Pi?")
