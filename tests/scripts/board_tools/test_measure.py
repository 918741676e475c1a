"""Right answers are counted by kind; a call in place of a text is as wrong as the reverse."""

import json
from pathlib import Path
from typing import Any

from scripts.board_tools.measure import by_kind, far_from_learned, ready, rows_of, wrong
from scripts.board_tools.rows import AUTHORS, development, questions_of
from toolchain.tool_use import called


def message(*calls: tuple[str, dict[str, Any]], as_text: bool = False) -> dict[str, Any]:
    made = [
        {"function": {"name": name, "arguments": json.dumps(given) if as_text else given}}
        for name, given in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": made}


def answered(*calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = message(*calls, as_text=True)["tool_calls"]
    return made


FAN, HEAT = ("fan_speed", {"percent": 50}), ("cpu_temperature", {})


def test_right_answers_are_counted_by_kind_and_tool() -> None:
    expected = [message(FAN), message(FAN), message(HEAT, FAN), message(), message()]
    calls = [answered(FAN), [], answered(FAN, HEAT), [], answered(HEAT)]
    assert by_kind(expected, calls) == {
        "all": (2, 5),
        "one call": (1, 2),
        "fan_speed": (1, 2),
        "two calls": (0, 1),
        "no call": (1, 2),
    }


def test_arguments_become_values_and_tools_stand_beside_each_conversation() -> None:
    rows = [ready(row, [{"type": "function"}]) for row in development()]
    assert all(row["tools"] for row in rows)
    calls = [call for row in rows for call in called(row["messages"][-1])]
    assert calls
    assert all(isinstance(arguments, dict) for _, arguments in calls)


def test_wrong_answers_are_told_and_right_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(
        "how hot? => cpu_temperature()\nhalf fan => fan_speed(percent=50)\nhi => TEXT Hello!\n",
        encoding="utf-8",
    )
    asked = [ready(row, []) for row in rows_of(file)]
    assert list(wrong(asked, [answered(HEAT), [], answered(FAN)])) == [
        'half fan => fan_speed {"percent": 50} | TEXT',
        'hi => TEXT | fan_speed {"percent": 50}',
    ]


def test_what_is_near_a_learned_wording_is_counted_apart() -> None:
    learned = questions_of(AUTHORS)[0]
    assert far_from_learned([f"{learned}!", "quixotic zebras juggle", learned]) == [1]
