"""The log of the service as JSON lines: its end, its bounds, and what is no log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device import logs
from device.logs import LOG


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / LOG


def printed(log: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    root = log.parent.parent
    assert logs.logs(["--root", str(root), *words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_last_lines_come_and_then_the_end(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text("one\ntwo\nthree\n")
    assert printed(log, capsys, "-n", "2") == [{"line": "two"}, {"line": "three"}, {"ok": True}]


def test_no_lines_are_asked_and_none_come(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text("one\n")
    assert printed(log, capsys, "-n", "0") == [{"ok": True}]


def test_a_board_without_a_log_has_no_lines(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(log, capsys) == [{"ok": True}]


def test_bytes_that_are_no_text_are_replaced(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_bytes(b"\xff one\n")
    assert printed(log, capsys)[0] == {"line": "\ufffd one"}


def test_a_long_line_is_cut(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_LINE", 10)
    log.write_text("x" * 100 + "\n")
    assert printed(log, capsys)[0] == {"line": "x" * 10}


def test_of_a_large_log_only_the_end_is_read(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 10)
    log.write_text("first\nsecond\nlast\n")
    assert printed(log, capsys) == [{"line": "cond"}, {"line": "last"}, {"ok": True}]


@pytest.mark.timeout(30)
def test_a_fifo_in_its_place_does_not_block(log: Path) -> None:
    os.mkfifo(log)
    with pytest.raises(OSError):
        logs.logs(["--root", str(log.parent.parent)])


def test_following_goes_on_with_new_lines_and_begins_again_after_a_cut(
    log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write_text("before\n")
    changes = [
        lambda: log.write_text("before\nlonger than it was\n"),
        lambda: log.write_text("cut\n"),
    ]

    def wait(seconds: float) -> bool:
        if changes:
            changes.pop(0)()
            return True
        return False

    monkeypatch.setattr("device.logs._is_heard_after", wait)
    logs.logs(["--root", str(log.parent.parent), "--follow"])
    *lines, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert end == {"ok": True}
    assert [line["line"] for line in lines] == ["before", "longer than it was", "cut"]


def test_following_a_silent_log_ends_when_nobody_listens_any_more(log: Path) -> None:
    log.write_text("before\n")
    child = subprocess.Popen(
        [sys.executable, "-m", "device", "logs", "--root", str(log.parent.parent), "--follow"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout
    with child.stdout:
        assert json.loads(child.stdout.readline()) == {"line": "before"}
        assert child.poll() is None
    child.wait(timeout=10)
