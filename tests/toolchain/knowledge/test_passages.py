"""Blocks → passages: where they are cut, and how large they become."""

import random

import pytest

from toolchain.knowledge.passages import Block, cut, length, table, tidy

WORDS = 40


def texts(blocks: list[Block], words: int = WORDS) -> list[str]:
    return [each.text for each in cut(blocks, "a.md", words)]


def paragraph(count: int, word: str = "word") -> Block:
    return Block(text=" ".join([word] * (count - 1) + [f"{word}."]))


def test_a_chinese_character_counts_less_than_a_word() -> None:
    assert length("two words") == 2
    assert length("先设置国家然后搜索网络吧啊呀呢") == pytest.approx(15 / 1.6)


def test_a_run_without_spaces_counts_by_its_characters() -> None:
    assert length("x" * 1600) == 100


@pytest.mark.parametrize("seed", range(20))
def test_no_passage_is_larger_than_twice_its_aim_and_nothing_is_lost(seed: int) -> None:
    draw = random.Random(seed)
    blocks = [
        Block(
            text=draw.choice([" ", "\n", ". ", ""]).join(
                draw.choices(["word", "我们", "long" * 30, "end."], k=draw.choice([1, 9, 60, 900]))
            ),
            kind=draw.choice(["paragraph", "code", "item"]),
        )
        for _ in range(30)
    ]
    pieces = texts(blocks)
    assert max(map(length, pieces)) <= 2 * WORDS
    assert "".join("".join(pieces).split()) == "".join("".join(b.text for b in blocks).split())


def test_a_section_is_cut_into_passages_of_nearly_equal_size() -> None:
    sizes = [length(each) for each in texts([paragraph(10)] * 13)]
    assert sum(sizes) == 130
    assert max(sizes) - min(sizes) <= 10


def test_a_small_section_is_joined_with_no_other() -> None:
    blocks = [Block(text="One.", headings=("A",)), Block(text="Two.", headings=("A", "B"))]
    passages = list(cut(blocks, "a.md", WORDS))
    assert [(each.text, each.heading) for each in passages] == [("One.", "A"), ("Two.", "A › B")]


def test_a_passage_stays_on_its_page() -> None:
    blocks = [Block(text="One.", page=1), Block(text="Two.", page=2)]
    assert [(each.text, each.page) for each in cut(blocks, "a.pdf", WORDS)] == [
        ("One.", 1),
        ("Two.", 2),
    ]


def test_code_stays_with_the_paragraph_before_it() -> None:
    code = Block(text="sudo reboot", kind="code")
    cuts = texts([paragraph(38), Block(text="Then restart."), code, paragraph(38)])
    assert any("Then restart.\n\nsudo reboot" in each for each in cuts)


def test_a_list_stays_with_the_line_that_announces_it() -> None:
    items = [Block(text=f"- {'item ' * 9}", kind="item") for _ in range(8)]
    cuts = texts([paragraph(39), Block(text="You need:"), *items])
    assert sum("You need:\n- item" in each for each in cuts) == 1


def test_a_list_item_is_not_cut_if_it_fits() -> None:
    items = [Block(text=f"- {n} " + "word " * 30, kind="item") for n in range(9)]
    assert all(each.count("- ") * 32 == length(each) for each in texts(items))


def test_a_table_that_is_cut_begins_with_its_first_row_again() -> None:
    rows = list(
        table([["Board", "Amps"], *([f"Pi number {n}", "five or so"] for n in range(30))], ())
    )
    cuts = texts(rows)
    assert len(cuts) > 1
    assert all(each.startswith("Board | Amps\nPi number ") for each in cuts)
    assert sum(each.count("Pi number") for each in cuts) == 30
    assert max(map(length, cuts)) <= 2 * WORDS


def test_a_first_row_that_is_half_a_passage_is_not_repeated() -> None:
    rows = list(table([["name " * 30, "b"], *([f"row {n}", "word " * 10] for n in range(9))], ()))
    assert sum(each.count("name name") > 0 for each in texts(rows)) == 1


def test_a_sentence_is_not_cut_if_it_fits() -> None:
    sentences = [f"This is sentence {n} of many more." for n in range(60)]
    cuts = texts([Block(text=" ".join(sentences))])
    assert len(cuts) > 4
    assert all(each.endswith("more.") and each.startswith("This is") for each in cuts)


def test_chinese_is_cut_at_its_own_full_stops() -> None:
    cuts = texts([Block(text="先设置国家，然后搜索网络。" * 40)])
    assert len(cuts) > 4
    assert all(each.endswith("。") for each in cuts)


def test_an_answer_stays_whole_with_its_questions() -> None:
    answer = Block(text="word " * 300, kind="answer", questions=("Why?", " Why? ", "", "How?"))
    (passage,) = cut([answer], "faq.csv", WORDS)
    assert passage.questions == ("Why?", "How?")
    assert length(passage.text) == 300


def test_a_heading_as_long_as_a_page_is_shortened() -> None:
    (passage,) = cut([Block(text="Text.", headings=("x" * 5000,))], "a.md", WORDS)
    assert passage.heading == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\u00a0b\u202fc", "a b c"),
        ("soft\u00adhyphen \u200bwidth\ufeff", "softhyphen width"),
        ("nul\x00 bell\x07 escape\x1b[1m", "nul bell escape[1m"),
        ("\u202eright to left", "right to left"),
        ("\ud83d\ude00 whole", "😀 whole"),
        ("\ud83d half", "� half"),
        ("e\u0301", "é"),
        ("a\r\nb\rc  \n", "a\nb\nc"),
    ],
)
def test_what_nobody_sees_is_taken_out(text: str, seen: str) -> None:
    assert tidy(text) == seen
    tidy(text).encode()
