"""The recipe for eight tools of a board: its rows, its calls, and wordings nobody trained on."""

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from device.serve.tools import read_tools
from toolchain import recipe, shipped
from toolchain.ingest import Parts, look
from toolchain.ingest.merge import CONTAMINATION
from toolchain.ingest.split import question_key
from toolchain.tool_use import called

RECIPE = recipe.load(shipped.folder() / "board-tools.toml")
TUNING, DRAWN, AUTHORS, HELD_OUT = RECIPE.data.files
TOOLS = json.loads((RECIPE.folder / RECIPE.data.tools).read_text(encoding="utf-8"))


@cache
def data() -> Parts:
    return look(RECIPE.data, RECIPE.folder, seed=RECIPE.seed)


def rows(file: str) -> list[dict[str, Any]]:
    lines = (RECIPE.folder / file).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def last_calls(file: str) -> list[list[tuple[str, Any]]]:
    return [called(row["messages"][-1]) for row in rows(file)]


def test_every_row_is_read_and_none_is_dropped() -> None:
    read = data().read
    assert read.errors == []
    assert dict(read.dropped.reasons) == {}
    learned = sum(len(rows(file)) for file in (TUNING, DRAWN, AUTHORS))
    assert len(data().train) == learned >= 5_000
    assert len(data().held_out) == len(rows(HELD_OUT)) >= 120


def test_the_eight_tools_are_those_that_a_board_can_hold_an_answer_to() -> None:
    tools = read_tools({"tools": TOOLS})
    assert tools
    assert len(tools.callable) == 8


@pytest.mark.parametrize("file", [TUNING, DRAWN, AUTHORS, HELD_OUT])
def test_every_call_fits_the_schema_of_its_tool(file: str) -> None:
    # The rules of ingest are ours; this referee is not.
    schemas = {each["function"]["name"]: each["function"].get("parameters") for each in TOOLS}
    for row in rows(file):
        for message in row["messages"]:
            for name, arguments in called(message):
                schema = schemas[name] or {"type": "object", "maxProperties": 0}
                jsonschema.validate(
                    json.loads(arguments), {**schema, "additionalProperties": False}
                )


def test_no_held_out_wording_stands_among_the_training_rows() -> None:
    learned = {question_key(each) for entry in data().train for each in entry.phrasings}
    asked = {question_key(each) for entry in data().held_out for each in entry.phrasings}
    assert learned & asked == set()
    kinds = data().read.found.by_kind((CONTAMINATION,))
    assert kinds == {} or kinds[CONTAMINATION]["found"] == 0


@pytest.mark.parametrize("file", [TUNING, DRAWN, AUTHORS, HELD_OUT])
def test_both_sides_call_every_tool_call_none_and_call_two(file: str) -> None:
    answers = last_calls(file)
    names = Counter(name for calls in answers for name, _ in calls)
    assert set(names) == {each["function"]["name"] for each in TOOLS}
    assert min(names.values()) >= 8
    assert sum(not calls for calls in answers) >= 25
    assert sum(len(calls) == 2 for calls in answers) >= 5


@pytest.mark.parametrize("file", [TUNING, HELD_OUT])
def test_results_are_answered_in_words(file: str) -> None:
    ends = [row["messages"][-2:] for row in rows(file)]
    answered = [last for before, last in ends if before["role"] == "tool"]
    assert len(answered) >= 8
    assert all(message["content"] for message in answered)


def test_a_copy_of_the_recipe_has_its_tools(tmp_path: Path) -> None:
    written = shipped.copy("board-tools", tmp_path)
    assert tmp_path / RECIPE.data.tools in written
    copied = recipe.load(tmp_path / "board-tools.toml")
    assert look(copied.data, tmp_path, seed=copied.seed).read.errors == []
