"""What is executed was verified, whichever verb runs it; what an owner stopped does not start."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.store import RELEASES, RUNTIMES
from tests.device.test_activation import Board, forge, processes, taken_port, wait_until


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.call("stop")


def forge_in_runtime(board: Board) -> Path:
    folder = board.store.folder(RUNTIMES, board.runtime) / "device" / "__pycache__"
    shutil.rmtree(folder, ignore_errors=True)
    forge(board, folder)
    return folder


def is_served(board: Board) -> bool:
    root = str(board.store.root).encode()
    return any(root in words and b"\0serve\0" in words for words in processes())


@pytest.mark.slow
def test_a_calibration_runs_no_byte_code_that_nobody_signed(board: Board) -> None:
    board.activate(board.add("1"))
    forge_in_runtime(board)
    answer = board.call("calibrate", "--budget", "1")
    assert answer["error"]["code"] == "runtime_extra_file"
    assert "__pycache__" in answer["error"]["message"]


@pytest.mark.slow
def test_a_scrub_names_byte_code_in_a_runtime_and_so_does_the_status_after_a_start(
    board: Board,
) -> None:
    board.activate(board.add("1"))
    forge_in_runtime(board)
    named = board.call("scrub")["rotten"]
    assert [fault["kind"] for fault in named] == ["runtime"]
    assert "`device/__pycache__/part0." in named[0]["what"]
    wait_until(lambda: "__pycache__" in board.call("status")["service"]["failure"])
    assert not is_served(board)


@pytest.mark.slow
def test_verify_names_byte_code_in_a_runtime_with_or_without_the_release(board: Board) -> None:
    board.activate(board.add("1"))
    for words in ((), ("--runtime-only",)):
        forge_in_runtime(board)
        error = board.call("verify", *words)["error"]
        assert (error["code"], "__pycache__" in error["message"]) == ("runtime_extra_file", True)
    assert board.call("verify", "--runtime-only") == {"verified": board.runtime}


@pytest.mark.slow
def test_a_release_that_rotted_is_not_what_a_failed_push_goes_back_to(board: Board) -> None:
    first = board.add("1")
    board.activate(first)
    model = board.store.folder(RELEASES, first) / "model.bin"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    answer = board.activate(board.add("2", counter=2, check="refuse"))
    assert answer["error"]["code"] == "unhealthy"
    wait_until(lambda: "`model.bin` is not what" in board.call("status")["service"]["failure"])
    assert not is_served(board)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while it is checked", "while it starts"])
def test_a_push_that_is_killed_leaves_a_stopped_service_stopped(board: Board, moment: str) -> None:
    board.activate(board.add("1"))
    board.call("stop")
    starts = moment == "while it starts"
    second = board.add("2", counter=2, **({"serve": "hang"} if starts else {"check": "hang"}))
    command = board.command("activate", *board.activation(second))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as push:
        verb = b"\0serve\0" if starts else b"\0check\0"
        root = str(board.store.root).encode()
        wait_until(lambda: any(root in words and verb in words for words in processes()))
        push.kill()

    wait_until(lambda: not any(root in words for words in processes()))
    time.sleep(1)
    seen = board.call("status")
    assert (seen["service"]["stopped"], seen["service"]["pid"]) == (True, None)
    assert not is_served(board)


@pytest.mark.slow
def test_a_supervisor_that_finds_its_service_stopped_ends(board: Board) -> None:
    board.activate(board.add("1"))
    board.call("stop")
    lone = subprocess.Popen(board.command("supervise"))
    assert lone.wait(timeout=20) == 0
    assert not is_served(board)
    assert board.call("status")["service"]["failure"] == ""


@pytest.mark.slow
def test_a_stopped_service_starts_with_the_next_push_of_the_same_release(board: Board) -> None:
    first = board.add("1")
    board.activate(first)
    board.call("stop")
    with taken_port(board):
        assert board.activate(first)["error"]["code"] == "port_taken"
    assert board.call("status")["service"]["stopped"] is True
    assert "error" not in board.activate(first)
    assert (board.running(), board.call("status")["service"]["stopped"]) == ("1", False)


@pytest.mark.slow
def test_the_status_knows_what_runs_when_the_note_of_the_deployment_has_rotted(
    board: Board,
) -> None:
    first = board.add("1")
    board.activate(first)
    (board.store.root / "deployments" / f"{first}.json").write_text("{")
    seen = board.call("status")
    assert (seen["release"]["version"], seen["service"]["healthy"], seen["confirmed"]) == (
        "1",
        True,
        True,
    )
