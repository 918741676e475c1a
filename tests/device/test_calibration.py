"""A release is calibrated on its board: what was found runs, or everything is as it was."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device import service, tuned
from device.store import RELEASES, RUNTIMES, Store
from tests.device.test_activation import processes
from tests.device.test_store import add
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.ports import free_port
from toolchain.agent import build_agent


class Board:
    """A store that serves one release."""

    def __init__(self, folder: Path, **moods: str) -> None:
        self.store, self.agent = Store(folder / "root"), build_agent()
        runtime = add(self.store, RUNTIMES, make_runtime(folder / "runtime"))
        self.release = add(self.store, RELEASES, make_bundle(folder / "bundle", **moods).path)
        self.bundle = self.store.folder(RELEASES, self.release)
        self.call(
            "activate",
            self.release,
            "--runtime",
            runtime,
            "--port",
            str(free_port()),
            "--service",
            "supervised",
            "--allow-unsigned",
        )

    def call(self, verb: str, *words: str) -> dict[str, Any]:
        command = [
            sys.executable,
            "-sE",
            str(self.agent),
            verb,
            "--root",
            str(self.store.root),
            *words,
        ]
        return dict(
            json.loads(
                subprocess.run(command, capture_output=True, check=False, timeout=120).stdout
            )
        )

    def healthy(self) -> bool:
        return bool(self.call("status")["service"]["healthy"])


@pytest.fixture
def board(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Board]:
    made = Board(tmp_path, **getattr(request, "param", {}))
    yield made
    made.call("stop")


@pytest.mark.slow
def test_what_was_found_is_kept_checked_and_run(board: Board) -> None:
    answer = board.call("calibrate", "--budget", "1")
    assert (answer["settings"]["threads_batch"], answer["check"]["goldens"]) == (3, 8)
    kept = tuned.read(board.bundle)
    assert kept and kept["settings"] == answer["settings"]
    assert board.healthy()


@pytest.mark.slow
@pytest.mark.parametrize("board", [{"check": "plain"}], indirect=True)
def test_a_change_that_costs_a_golden_is_taken_back_and_the_threads_stay(board: Board) -> None:
    answer = board.call("calibrate", "--budget", "1")
    assert answer["settings"] == {"threads": 2, "threads_batch": 3, "cpus": []}
    assert "golden 3 differs" in answer["evidence"]["refused"]
    assert board.healthy()


@pytest.mark.slow
@pytest.mark.parametrize(
    "board", [{"search": "exit"}, {"search": "killed"}, {"search": "refuse"}], indirect=True
)
def test_a_search_that_fails_leaves_the_release_running_as_before(board: Board) -> None:
    before = {"settings": {"threads": 1, "threads_batch": 1, "cpus": []}, "evidence": {}}
    tuned.write(board.bundle, before)
    assert board.call("calibrate", "--budget", "1")["error"]["code"] == "unhealthy"
    assert tuned.read(board.bundle) == before
    assert board.healthy()


def search_of(board: Board) -> "subprocess.Popen[bytes]":
    """Start a search for a host that is alive, and return once it is under way."""
    words = ["calibrate", "--root", str(board.store.root), "--leased", "--budget", "1"]
    host = subprocess.Popen(
        [sys.executable, "-sE", str(board.agent), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    wait_until(lambda: searches(board))
    return host


def searches(board: Board) -> list[bytes]:
    runtimes = os.fsencode(board.store.root / RUNTIMES)
    return [words for words in processes() if runtimes in words and b"\0search\0" in words]


def wait_until(said: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not said():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("board", [{"search": "hang"}], indirect=True)
def test_a_search_ends_with_its_host_and_all_is_as_before(board: Board) -> None:
    before = {"settings": {"threads": 1, "threads_batch": 1, "cpus": []}, "evidence": {}}
    tuned.write(board.bundle, before)
    host = search_of(board)
    status = board.call("status")
    assert (status["changing"]["verb"], status["changing"]["pid"]) == ("calibrate", host.pid)
    assert (status["measuring"]["verb"], status["measuring"]["pid"]) == ("calibrate", host.pid)

    said = json.loads(host.communicate(timeout=60)[0])  # which hangs up first
    assert (said["error"]["code"], said["error"]["message"]) == (
        "cut",
        "the host hung up, so this ended",
    )
    assert searches(board) == []
    assert tuned.read(board.bundle) == before
    assert board.healthy()
    status = board.call("status")
    assert (status["changing"], status["measuring"]) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("board", [{"search": "hang"}], indirect=True)
def test_a_calibration_that_is_killed_leaves_a_service_that_starts_by_itself(
    board: Board,
) -> None:
    port = board.call("status")["service"]["port"]
    host = search_of(board)
    host.kill()
    host.communicate()
    wait_until(lambda: not searches(board))
    # No `status` here: that would start a supervisor which is missing.
    wait_until(lambda: service.healthy(port))


@pytest.mark.slow
@pytest.mark.parametrize("board", [{"search": "hang"}], indirect=True)
def test_what_waits_for_a_calibration_is_told_of_it(board: Board) -> None:
    host = search_of(board)
    message = board.call("stop")["error"]["message"]
    host.communicate(timeout=60)
    assert f": `calibrate`, process {host.pid}, for " in message


@pytest.mark.slow
@pytest.mark.parametrize("board", [{"search": "hang"}], indirect=True)
def test_a_service_that_its_owner_had_stopped_stays_stopped(board: Board) -> None:
    board.call("stop")
    search_of(board).communicate(timeout=60)
    state = board.call("status")["service"]
    assert (state["stopped"], state["healthy"]) == (True, False)


def test_an_empty_board_has_nothing_to_calibrate(tmp_path: Path) -> None:
    store, agent = Store(tmp_path / "root"), build_agent()
    command = [sys.executable, "-sE", str(agent), "calibrate", "--root", str(store.root)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    assert answer["error"]["code"] == "nothing_deployed"
