"""Any login shell: a command gets its words as they were sent, and earlier output is told apart."""

import shutil
import subprocess

import pytest

from toolchain.board.shell import MARK, command_line

SHELLS = ["sh", "bash", "dash", "zsh", "fish", "tcsh", "bsd-csh"]
WORDS = [
    "a b",
    "it's",
    '"',
    "$HOME",
    "*",
    "",
    "new\nline",
    "温度",
    "~",
    "~root",
    "!x",
    "a!b",
    "\\",
    "\\\\n",
    "`id`",
    "%s",
    "{a,b}",
    "a;b",
    "\x01\x7f",
    "y" * 20_000,
]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if not (program := shutil.which(request.param)):
        pytest.skip(f"{request.param} is not installed")
    return program


def said(shell: str, line: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([shell, "-c", line], capture_output=True, check=False, timeout=60)


def test_words_arrive_as_they_were_sent(shell: str) -> None:
    done = said(shell, command_line(["printf", "%s|", *WORDS]))
    assert done.stdout == MARK + "".join(f"{word}|" for word in WORDS).encode()
    assert done.stderr == MARK


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_status_is_the_commands(shell: str, script: str, code: int) -> None:
    assert said(shell, command_line(["sh", "-c", script])).returncode == code


@pytest.mark.parametrize("home", ["/a b", "/it's", '/"', "/new\nline", "/$x!"])
def test_a_home_of_any_name_is_where_the_tilde_leads(shell: str, home: str) -> None:
    line = command_line(["printf", "%s", "~/x y"], {"HOME": home})
    assert said(shell, line).stdout == MARK + f"{home}/x y".encode()


def test_a_line_that_is_repeated_does_not_hold_the_mark() -> None:
    assert MARK.strip() not in command_line(["python3", "x"]).encode()


def test_no_word_is_longer_than_the_oldest_csh_takes() -> None:
    line = command_line(["printf", "\x01" * 5_000])
    assert max(map(len, line.split(" "))) < 1024
