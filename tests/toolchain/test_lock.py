"""A work folder has one walk at a time: the second says who holds it, and waits."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.fakes.datasets import Recorder
from toolchain import lock
from toolchain.errors import ConfigError
from toolchain.lock import HOLDER, locked
from toolchain.progress import Silent

HOLD = """
import sys
from pathlib import Path
from toolchain.lock import locked
from toolchain.progress import Silent
sys.argv = ["demitasse", "run", "a recipe.toml"]
with locked(Path(PLACE), Silent()):
    print("held", flush=True)
    sys.stdin.read()
"""
RECIPE = """
title = "a model"
targets = ["x86-64"]
stages = ["ingest"]
[model]
base = "base"
[data]
files = ["a.jsonl"]
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """Start a process that holds a folder until its input ends."""
    code = HOLD.replace("PLACE", repr(str(folder)))
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stdout.readline() == "held\n"
    return child


def waited(child: "subprocess.Popen[str]", folder: Path, report: Recorder) -> None:
    """Let a second walk wait for a folder until its holder ends; it leaves a file there."""
    entered = threading.Event()

    def second() -> None:
        with locked(folder, report):
            (folder / "a").write_text("kept")
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not entered.wait(1.0)
    child.communicate("")
    thread.join(timeout=120)
    assert entered.is_set()


def test_the_second_is_told_who_holds_the_folder_and_goes_on_when_that_ends(tmp_path: Path) -> None:
    child, report = holder(tmp_path), Recorder()
    waited(child, tmp_path, report)
    assert report.notes == [
        (
            f"{tmp_path}: process {child.pid} (demitasse run 'a recipe.toml') works here; "
            "waiting until it ends"
        )
    ]
    assert not (tmp_path / HOLDER).exists()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    child = holder(tmp_path)
    child.kill()
    child.communicate()
    report = Recorder()
    with locked(tmp_path, report):
        assert report.notes == []


def test_a_walk_within_a_walk_does_not_wait_for_itself(tmp_path: Path) -> None:
    with locked(tmp_path, Silent()), locked(tmp_path, Silent()):
        assert (tmp_path / HOLDER).exists()
    with locked(tmp_path, Silent()):
        pass


def test_a_place_that_can_be_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"file/out: cannot be used as a work folder: not a dir"),
        locked(tmp_path / "file" / "out", Silent()),
    ):
        pass


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_a_dry_run_waits_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "a.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    command = [sys.executable, "-m", "toolchain", "ingest", str(tmp_path / "r.toml")]
    command += ["--out", str(tmp_path / "out")]
    child = holder(tmp_path / "out" / "r")
    try:
        dry = subprocess.run([*command, "--dry-run"], capture_output=True, timeout=250)
        assert dry.returncode == 0

        with subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            # A program started in the background may have inherited that SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as second:
            assert second.stderr
            assert "works here; waiting until it ends" in second.stderr.readline()
            second.send_signal(signal.SIGINT)
            said = second.stderr.read()
    finally:
        child.communicate("")
    assert second.returncode == 130
    assert said.startswith("error: stopped by Ctrl-C")
    words = " ".join(command[3:])
    assert said.endswith(f"hint: what is finished is kept; go on with: demitasse {words}\n")


def test_a_new_folder_that_stays_empty_is_removed_and_whoever_waited_has_one(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    waited(holder(folder), folder, Recorder())
    assert [path.name for path in folder.iterdir()] == ["a"]
    with locked(tmp_path / "empty", Silent()):
        pass
    assert not (tmp_path / "empty").exists()


def test_a_folder_that_cannot_be_made_again_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever held it has removed it, and a file stands there now."""
    folder = tmp_path / "out"

    def removed(handle: int, place: Path, report: object) -> None:
        place.rmdir()
        place.write_text("a file")

    monkeypatch.setattr(lock, "_wait", removed)
    with (
        pytest.raises(ConfigError, match="cannot be used as a work folder"),
        locked(folder, Silent()),
    ):
        pass
