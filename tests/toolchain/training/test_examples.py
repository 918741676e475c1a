"""Questions with other words: what a teacher is unsure of, drawn the same way each time."""

from pathlib import Path
from typing import Any

from tests.fakes.models import tiny_tokenizer
from toolchain.training.examples import (
    Example,
    batches_from,
    batches_of_epoch,
    conversations,
    exchanged,
    reworded,
)

QUESTIONS = (
    "how hot is too hot for a Pi 5?",
    "which power supply does the Pi 4 need?",
    "树莓派的温度",
    "why is the screen black?",
)
ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"answer {q}"}]}
    for q in QUESTIONS
]


def questions(rows: list[Any]) -> list[str]:
    return [row["messages"][-2]["content"] for row in rows]


def test_only_words_of_the_questions_change() -> None:
    known = {word for question in QUESTIONS for word in question.split()} | set("树莓派的温度")
    changed = questions(reworded(ROWS * 8, 1.0, 0))
    assert set(changed) - set(QUESTIONS)
    assert {word for question in changed for word in question.split() if word.isascii()} <= known
    assert [row["messages"][-1] for row in reworded(ROWS, 1.0, 0)] == [
        row["messages"][-1] for row in ROWS
    ]


def test_a_share_of_nothing_changes_nothing() -> None:
    assert reworded(ROWS, 0.0, 0) == ROWS


def test_the_same_seed_draws_the_same_words_and_another_seed_others() -> None:
    assert questions(reworded(ROWS * 4, 1.0, 1)) == questions(reworded(ROWS * 4, 1.0, 1))
    assert questions(reworded(ROWS * 4, 1.0, 1)) != questions(reworded(ROWS * 4, 1.0, 2))


def test_characters_of_chinese_are_words_of_their_own() -> None:
    chinese = [row for row in ROWS if "树" in row["messages"][0]["content"]] * 20
    assert any(0 < len(question) < 6 for question in questions(reworded(chinese, 1.0, 0)))


def test_a_conversation_without_a_question_is_left_as_it_is() -> None:
    rows = [*ROWS, {"messages": [{"role": "assistant", "content": "welcome"}]}]
    assert reworded(rows, 1.0, 0)[-1] == rows[-1]


def test_nothing_is_learned_of_an_opening_and_it_counts_for_the_length(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    plain = [{"messages": [*row["messages"], *row["messages"]]} for row in ROWS]
    opened = [{**row, "opening": 2} for row in plain]
    whole, half = (conversations(tokenizer, rows, 512)[0] for rows in (plain, opened))
    assert [example.ids for example in whole] == [example.ids for example in half]
    assert [example.targets for example in whole] == [2 * example.targets for example in half]
    shortest = min(len(example.ids) for example in half)
    assert [len(found) for found in conversations(tokenizer, opened, shortest)[:1]] == [1]


def test_a_share_of_the_conversations_has_the_answer_of_another_and_its_own_question() -> None:
    rows = ROWS * 50
    found = exchanged(rows, 0.5, 0)
    assert questions(found) == questions(rows)
    kept = sum(
        row["messages"][-1] == was["messages"][-1] for row, was in zip(found, rows, strict=True)
    )
    assert 0.5 < kept / len(rows) < 0.75, "one exchange in four draws the answer that was there"
    assert {row["messages"][-1]["content"] for row in found} == {
        row["messages"][-1]["content"] for row in ROWS
    }
    assert exchanged(rows, 0.5, 0) == found != exchanged(rows, 0.5, 1)
    assert exchanged(rows, 0.0, 0) == rows


def test_rows_behind_one_long_beginning_are_mixed_whatever_their_kind() -> None:
    tools = list(range(700))
    short = [Example(ids=[*tools, *[7] * 40], labels=[1] * 740) for _ in range(480)]
    long = [Example(ids=[*tools, *[8] * 90], labels=[1] * 790) for _ in range(480)]
    batches = batches_of_epoch([*short, *long], 24, 0, 0)
    shares = [sum(row < 480 for row in batch) / 24 for batch in batches]
    # Drawn by chance the share of a batch has a standard deviation of 0.1.
    assert 0.15 < min(shares) < max(shares) < 0.85


def test_rows_with_one_beginning_of_very_different_lengths_are_not_mixed() -> None:
    begin = list(range(100))
    examples = [Example(ids=[*begin, *[7] * more], labels=[]) for more in [20, 900] * 48]
    for batch in batches_of_epoch(examples, 24, 0, 0):
        assert len({len(examples[row].ids) for row in batch}) == 1


def test_no_row_without_the_long_beginning_stands_in_a_batch_with_it() -> None:
    tools = [Example(ids=[*range(300), row], labels=[]) for row in range(30)]
    plain = [Example(ids=[9, 8, 7, row], labels=[]) for row in range(30)]
    batches = list(batches_from([*tools, *plain], 8, 0, 0, 8))
    assert all(len({row < 30 for row in batch}) == 1 for batch in batches)
    assert sorted(row for batch in batches for row in batch) == list(range(60))
