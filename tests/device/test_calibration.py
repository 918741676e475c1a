"""A release is calibrated on its board: what was found runs, or everything is as it was."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device import tuned
from device.store import RELEASES, RUNTIMES, Store
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


def test_an_empty_board_has_nothing_to_calibrate(tmp_path: Path) -> None:
    store, agent = Store(tmp_path / "root"), build_agent()
    command = [sys.executable, "-sE", str(agent), "calibrate", "--root", str(store.root)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    assert answer["error"]["code"] == "nothing_deployed"
