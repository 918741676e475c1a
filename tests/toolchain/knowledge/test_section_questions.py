"""What `fresh-sections.jsonl` promises: questions for pages, in other words than their headings."""

import re

import pytest

from tests.toolchain.knowledge.test_questions import FOLDER, content, rows
from toolchain.knowledge.passages import BETWEEN_HEADINGS
from toolchain.knowledge.texts import Texts, read_texts
from toolchain.recipe import KnowledgeSpec

NAME = "fresh-sections"


@pytest.fixture(scope="module")
def texts() -> Texts:
    spec = {
        "files": ["help-desk/faq.jsonl", "help-desk/manual"],
        "fresh": [f"help-desk/{NAME}.jsonl"],
        "embedder": "x",
    }
    return read_texts(KnowledgeSpec.model_validate(spec), FOLDER.parent)


def test_each_question_has_a_section_of_the_manual_that_answers_it(texts: Texts) -> None:
    assert len(texts.fresh) == len(rows(NAME)) >= 150
    sections = set()
    for asked, row in zip(texts.fresh, rows(NAME), strict=True):
        passages = [texts.library.passages[number - 1] for number in asked.right]
        assert {each.source for each in passages} == {row["source"]}
        assert {each.heading.split(BETWEEN_HEADINGS)[-1] for each in passages} == {row["heading"]}
        sections.add((row["source"], row["heading"]))
    assert len(sections) >= 80
    assert {source for source, _ in sections} == {
        f"help-desk/manual/{page.name}" for page in (FOLDER / "manual").iterdir()
    }


def test_another_answer_counts_only_where_it_is_one_of_the_faq(texts: Texts) -> None:
    also = [texts.library.passages[number - 1] for each in texts.fresh for number in each.also]
    assert {each.source for each in also} == {"help-desk/faq.jsonl"}


def test_no_question_shares_a_content_word_with_the_heading_of_its_section() -> None:
    for row in rows(NAME):
        assert not content(row["question"]) & content(row["heading"]), row["question"]


def test_no_question_is_one_that_the_search_was_made_or_fitted_with() -> None:
    asked = [row["question"].lower() for row in rows(NAME)]
    assert len(set(asked)) == len(asked)
    known = {
        row["question"].lower() for name in ("fresh", "tuning", "unanswered") for row in rows(name)
    }
    known |= {
        each.lower()
        for name in ("faq", "questions")
        for row in rows(name)
        for each in row["question"]
    }
    assert not sorted(known & set(asked))


def test_no_question_is_nearly_one_of_the_written_ones() -> None:
    def words(text: str) -> set[str]:
        return set(re.findall(r"[a-z0-9']+|[\u4e00-\u9fff]", text.lower()))

    written = [words(each) for row in rows("questions") for each in row["question"]]
    written += [words(row["question"]) for row in rows("tuning")]
    close = [
        row["question"]
        for row in rows(NAME)
        if any(
            len(words(row["question"]) & each) >= 0.6 * len(words(row["question"]) | each)
            for each in written
        )
    ]
    assert close == []
