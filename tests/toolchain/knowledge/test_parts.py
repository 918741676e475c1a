"""Parts of a passage: whole sentences and lines, nothing lost, none where there is one alone."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolchain.knowledge.test_questions import FOLDER
from toolchain.knowledge.documents import read_documents
from toolchain.knowledge.index import entries_of
from toolchain.knowledge.parts import WORDS, parts
from toolchain.knowledge.passages import Passage, length

LONG = " ".join(f"word{number}" for number in range(WORDS))


def without_spaces(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_sentences_are_joined_until_they_say_enough() -> None:
    text = f"{LONG}. Short one. Another short one! {LONG}?"
    assert parts(text) == [f"{LONG}.", f"Short one. Another short one! {LONG}?"]


def test_the_lines_of_code_and_tables_end_a_sentence() -> None:
    assert parts(f"{LONG}\n\nsudo reboot\n{LONG}") == [LONG, f"sudo reboot {LONG}"]


def test_a_short_rest_stays_with_what_is_before_it() -> None:
    assert parts(f"{LONG}. {LONG}. The end.") == [f"{LONG}.", f"{LONG}. The end."]


def test_a_text_of_one_part_has_none() -> None:
    assert parts("") == parts("Switch it off. Wait.") == parts(f"{LONG}. And off.") == []


def test_chinese_is_cut_at_its_own_marks() -> None:
    sentence = (
        "树莓派的电源要用官方的，电压太低的时候屏幕上会出现一个闪电标志，"
        "请换掉电源和线，再拔掉耗电的设备。"
    )
    assert parts(sentence * 3) == [sentence] * 3


def test_what_has_no_full_stop_is_cut_between_words() -> None:
    words = [f"word{number}" for number in range(5 * WORDS)]
    found = parts(" ".join(words))
    assert found == [" ".join(words[at : at + WORDS]) for at in range(0, len(words), WORDS)]
    assert len(parts("ไทย" * 16 * WORDS)) > 2


@given(st.text(alphabet="ab .!?\n。树", max_size=400))
def test_nothing_is_lost(text: str) -> None:
    assert without_spaces("".join(parts(text))) in ("", without_spaces(text))


def test_sections_of_a_real_manual_have_about_three() -> None:
    passages = read_documents(("help-desk/manual",), FOLDER.parent, 120).passages
    counts = [len(parts(each.text)) for each in passages]
    assert 2.5 < sum(counts) / len(counts) < 4.5
    assert all(length(part) < 3 * WORDS for each in passages for part in parts(each.text))


def test_a_passage_is_compared_by_its_parts_where_nobody_wrote_a_question() -> None:
    passages = [
        Passage(text=f"{LONG}. {LONG}.", source="a.md", heading="A"),
        Passage(text="Short.", source="b.md"),
    ]
    entries = entries_of(passages, [(), ()], ["who won?"], fitted=True)
    assert [(each.text, each.passage, each.part) for each in entries] == [
        (f"A. {LONG}. {LONG}.", 1, False),
        (f"{LONG}.", 1, True),
        (f"{LONG}.", 1, True),
        ("Short.", 2, False),
        ("who won?", None, False),
    ]


def test_a_few_answers_with_questions_take_no_parts_from_the_other_passages() -> None:
    passages = [
        Passage(text=f"{LONG}. {LONG}.", source="a.md"),
        Passage(text=f"{LONG}. {LONG}.", source="faq.csv"),
    ]
    asked = [(), ("how?",)]
    entries = entries_of(passages, asked, (), fitted=False)
    assert [each.passage for each in entries if each.part] == [1, 1]
    assert not any(each.part for each in entries_of(passages, asked, (), fitted=True))


def test_above_so_many_passages_none_has_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    passages = [Passage(text=f"{LONG}. {LONG}.", source="a.md")] * 2
    assert len(entries_of(passages, [(), ()], (), fitted=False)) == 6
    monkeypatch.setattr("toolchain.knowledge.index.PARTED", 1)
    assert len(entries_of(passages, [(), ()], (), fitted=False)) == 2
