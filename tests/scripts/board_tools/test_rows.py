"""Rows of board-tools are drawn again as they stand in the recipe, and say what they mean."""

import json
from pathlib import Path

import jsonschema

from scripts.board_tools.authors import Call, Line
from scripts.board_tools.near import Measured
from scripts.board_tools.rows import (
    AUTHORS,
    COUNTS,
    DRAWN,
    RECIPE,
    Draws,
    all_author_rows,
    all_rows,
    author_rows,
    development,
    questions_of,
    read_wordings,
)
from toolchain.ingest.split import plain_key


def test_the_same_rows_are_drawn_again() -> None:
    rows, near = all_rows()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert lines == DRAWN.read_text(encoding="utf-8").splitlines()
    assert len(rows) == sum(COUNTS.values())
    assert near > 0, "wordings that a stranger has too are left out"


def test_the_authors_rows_are_what_their_lines_say() -> None:
    rows, near = all_author_rows()
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert lines == AUTHORS.read_text(encoding="utf-8").splitlines()
    assert near > 0


def test_an_authors_line_near_a_measured_one_is_not_learned() -> None:
    heat: list[Call] = [("cpu_temperature", {})]
    lines = [
        Line("a:1", "how hot is it?", heat),
        Line("a:2", "bye", "Bye!"),
        Line("a:3", "hi", "Hello!"),
    ]
    rows, near = author_rows([*lines, *lines], Measured(["How hot is it"]), ["Hi!"])
    assert [row["messages"][0]["content"] for row in rows] == ["bye"]
    assert near == 1


def test_a_wording_near_a_held_out_one_is_not_drawn(tmp_path: Path) -> None:
    free = [each["messages"][0]["content"] for each in Draws([]).rows("none", 40)]
    kept = [each["messages"][0]["content"] for each in Draws(free[:5]).rows("none", 40)]
    assert not {each.casefold().strip(" ?.!") for each in free[:5]} & {
        each.casefold().strip(" ?.!") for each in kept
    }


def test_every_wording_can_be_drawn_and_every_kind_is_there() -> None:
    kinds = read_wordings()
    assert set(kinds) == {"one", "none", "clause", "two"}
    assert all(each.mood in "IQNSX" and each.answer for kind in kinds.values() for each in kind)


def test_development_wordings_are_neither_learned_nor_held_out_and_fit_the_tools() -> None:
    rows = development()
    asked = {plain_key(row["messages"][0]["content"]) for row in rows}
    others = [plain_key(each) for file in RECIPE.glob("*.jsonl") for each in questions_of(file)]
    assert len(asked) == len(rows) >= 140
    assert asked.isdisjoint(others)

    tools = json.loads((RECIPE / "tools.json").read_text(encoding="utf-8"))
    schemas = {each["function"]["name"]: each["function"].get("parameters") for each in tools}
    calls = [call for row in rows for call in row["messages"][-1].get("tool_calls", ())]
    assert {call["function"]["name"] for call in calls} == set(schemas)
    for call in calls:
        schema = schemas[call["function"]["name"]] or {"type": "object", "maxProperties": 0}
        jsonschema.validate(json.loads(call["function"]["arguments"]), schema)
