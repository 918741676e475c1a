"""Authors' lines are read as syntax, never run; a bad one is named by file and line."""

from pathlib import Path

import pytest

from scripts.board_tools.authors import (
    AUTHORS,
    STRANGER,
    Line,
    learned_lines,
    parse_calls,
    read_lines,
)
from scripts.board_tools.rows import RECIPE, questions_of
from toolchain.errors import ArtifactError
from toolchain.ingest.split import plain_key


def written(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "somebody.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_calls_and_texts_are_read(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "# a note",
        'lamp on 17 => gpio_write(pin=17, on=true, numbering="bcm")',
        "how hot, how full? => cpu_temperature() ; disk_space()",
        "",
        "pin 99 up => TEXT There is no pin 99.",
    )
    assert read_lines(file) == [
        # In the schema's order, which is the order that a board writes.
        Line(
            "somebody.txt:2",
            "lamp on 17",
            [("gpio_write", {"pin": 17, "numbering": "bcm", "on": True})],
        ),
        Line("somebody.txt:3", "how hot, how full?", [("cpu_temperature", {}), ("disk_space", {})]),
        Line("somebody.txt:5", "pin 99 up", "There is no pin 99."),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no arrow", "somebody.txt:1: no `wish => answer`"),
        ("hello => Hello!", "neither calls nor `TEXT`"),
        ("hello => text", "no call with named arguments"),
        ("fan 5 => fan_speed(5)", "no call with named arguments"),
        ("fan 5 => fan_speed(percent=2+3)", "no plain value: 2 + 3"),
        ("fan 5 => fan_speed(percent=open('x'))", "no plain value"),
        ("fan 500 => fan_speed(percent=500)", "does not fit its schema"),
        ("fan => fan_speed()", "does not fit its schema"),
        ("off with you => shut_down()", "which is no tool of it"),
        ('at 7 => reboot_at(time="7:00")', "does not fit its schema"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises((ValueError, ArtifactError)) as caught:
        read_lines(written(tmp_path, line))
    assert said in str(caught.value)
    assert "somebody.txt:1" in str(caught.value)


def test_true_is_read_in_both_spellings() -> None:
    assert parse_calls("a(x=true, y=False)") == [("a", {"x": True, "y": False})]


def test_several_authors_are_learned_and_each_has_calls_and_texts() -> None:
    lines = list(learned_lines())
    files = {line.place.split(":")[0] for line in lines}
    assert len(files) == len(list(AUTHORS.glob("*.txt"))) >= 3
    for file in files:
        own = [line.answer for line in lines if line.place.startswith(f"{file}:")]
        texts = sum(isinstance(each, str) for each in own)
        assert 0.3 < texts / len(own) < 0.7


def test_nothing_of_the_stranger_is_learned_word_for_word() -> None:
    asked = {plain_key(line.wish) for line in read_lines(STRANGER)}
    others = {plain_key(each) for file in RECIPE.glob("*.jsonl") for each in questions_of(file)}
    assert len(asked) >= 200
    assert asked.isdisjoint(others)
