"""Conversations that decide between candidates are never those that the gate asks."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.datasets import write_lines
from tests.fakes.records import record_of
from toolchain.artifacts import Dataset
from toolchain.held_out import Split, split


def dataset(folder: Path, train: int, held_out: list[str]) -> Dataset:
    write_lines(folder / "train.jsonl", [row(f"learned {number}") for number in range(train)])
    write_lines(folder / "held_out.jsonl", [row(text) for text in held_out])
    return Dataset(path=folder, record=record_of("ingest", {}), fresh=False)


def row(question: str) -> dict[str, Any]:
    ask, answer = {"role": "user", "content": question}, {"role": "assistant", "content": "yes"}
    return {"messages": [ask, answer]}


def questions(rows: Any) -> list[str]:
    return [each["messages"][0]["content"] for each in rows]


def made(folder: Path, held_out: int, *, train: int = 8, asked: int = 200) -> Split:
    return split(dataset(folder, train, [f"asked {number}" for number in range(held_out)]), asked)


@pytest.mark.parametrize(
    ("held_out", "asked", "trials"),
    [(2, 200, 1), (3, 200, 1), (5, 200, 1), (12, 200, 4), (12, 4, 8), (3, 1, 2), (400, 200, 200)],
)
def test_gate_and_trials_are_disjoint_and_together_all_that_is_held_out(
    held_out: int, asked: int, trials: int, tmp_path: Path
) -> None:
    found = made(tmp_path, held_out, asked=asked)
    gate, tried = questions(found.gate), questions(found.trials)
    assert len(tried) == trials
    assert not set(gate) & set(tried)
    assert sorted([*gate, *tried]) == sorted(f"asked {number}" for number in range(held_out))
    assert len(found.lessons) == 8
    assert found.source == "held-out conversations that the gate does not ask"


def test_the_split_is_the_same_each_time(tmp_path: Path) -> None:
    assert made(tmp_path, 30) == made(tmp_path, 30)


def test_trials_come_from_all_of_the_file(tmp_path: Path) -> None:
    assert questions(made(tmp_path, 12).trials) == ["asked 2", "asked 5", "asked 8", "asked 11"]


def test_a_question_that_stands_there_twice_is_on_one_side(tmp_path: Path) -> None:
    found = split(dataset(tmp_path, 4, ["one", "two", "one", "two", "one"]), 200)
    assert not set(questions(found.gate)) & set(questions(found.trials))
    assert len(found.gate) + len(found.trials) == 5


@pytest.mark.parametrize("held_out", [0, 1])
def test_with_too_few_held_out_the_trials_are_of_the_training_and_the_record_says_so(
    held_out: int, tmp_path: Path
) -> None:
    found = made(tmp_path, held_out)
    assert len(found.gate) == held_out
    assert len(found.trials) == 2
    assert not set(questions(found.trials)) & set(questions(found.lessons))
    assert found.source == "conversations of the training, as too few are held out"


def test_a_single_conversation_of_the_training_is_learned_and_tried(tmp_path: Path) -> None:
    found = made(tmp_path, 1, train=1)
    assert questions(found.lessons) == questions(found.trials) == ["learned 0"]
    assert json.dumps(found.gate)
