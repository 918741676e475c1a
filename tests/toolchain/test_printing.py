"""Printed text cannot move the cursor, set a title, change the screen, or be read as markup."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain import console
from toolchain.errors import ToolchainError

HOSTILE = (
    "\x1b]0;title\x07\x1b[2J\x9b31m\rover\x08\x7f\u202eflip\u2028line\ud800 [/INST] [bold]x[/bold] "
    "[link=http://evil.example]y[/link] :cat: \\[z]"
)
"""Titles, colours, C1, a carriage return, directions, half a character, markup and an emoji's
name."""
SHOWN = (
    "\\x1b]0;title\\x07\\x1b[2J\\x9b31m\\x0dover\\x08\\x7f\\u202eflip\\u2028line\\ud800 "
    "[/INST] [bold]x[/bold] "
    "[link=http://evil.example]y[/link] :cat: \\[z]"
)


def error(text: str) -> None:
    console.show_error(ToolchainError(text, hint=text))


def note(text: str) -> None:
    with console.terminal() as terminal:
        terminal.note(text)


PRINTERS: dict[str, Callable[[str], None]] = {
    "an error and its hint": error,
    "a note": note,
    "text": console.show_text,
    "a cell": lambda text: console.show_table(("a", "b"), [["1", text]]),
    "an aside": console.show_aside,
    "a column": lambda text: console.show_table((text, "b"), [["1", "2"]]),
    "a title": lambda text: console.show_table(("a", "b"), [["1", "2" * 400]], title=text),
}


@pytest.mark.parametrize("printer", PRINTERS.values(), ids=PRINTERS)
def test_what_a_terminal_would_obey_is_spelled_out(
    printer: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(console, "PIPE_WIDTH", 500)
    printer(HOSTILE)
    printed = "".join(capsys.readouterr())
    assert SHOWN in printed
    assert [sign for sign in printed if sign != "\n" and not sign.isprintable()] == []


def test_a_cell_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table(("a", "b"), [["1", "two\nlines\tand a tab"]])
    assert "two\\nlines\\tand a tab" in capsys.readouterr().out


def test_text_keeps_its_lines_and_its_letters(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_text("Köln 温度 🍵 क्ष\n\tsecond")
    assert capsys.readouterr().out == "Köln 温度 🍵 क्ष\n\tsecond\n"


def test_json_says_the_same_without_a_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_json({"model": HOSTILE, "ö": "温度"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"model": HOSTILE, "ö": "温度"}
    assert [sign for sign in printed if sign != "\n" and not sign.isprintable()] == []


@pytest.mark.slow
def test_a_name_that_no_terminal_can_show_ends_nothing(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, from an output that takes ASCII alone."""
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "inspect", b"\xff[x]\xc3\xb6.gguf"],
        cwd=Path(__file__).parents[2],
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 4
    assert b"\\udcff[x]\\xf6.gguf" in done.stderr
    assert b"Traceback" not in done.stderr
