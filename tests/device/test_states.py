"""Each step of an activation is interrupted at its beginning, inside it and at its end, once and
always: 48 cases.

Everything but the model is real: agent, supervisor and runtime are processes. Whatever happens, a
release runs by itself afterwards. A fault that happens once does not keep the next activation from
succeeding. A fault that always happens ends with the old release, and in no loop.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Rounds
from tests.device.test_activation import Board, wait_until

ROOT = Path(__file__).resolve().parents[2]
STEPS = {
    "verify": ("trust.check", "store.Store.check"),
    "settle": ("store.Store.settle", "disk.sync_all"),
    "hand over": ("activation._hand_over", "subprocess.Popen"),
    "check": ("activation._check", "activation.run_verb"),
    "switch": ("store.Store.switch", "disk.replace"),
    "watch": ("activation._watch", "service.healthy"),
    "commit": ("store.Store.commit", "disk.write"),
    "sweep": ("store.Store.sweep", "store.Store.sweep_blobs"),
}
"""A step → its function, and one that is called in its midst."""
MOMENTS = ("begins", "within", "ends")
CASES = [
    (step, moment, often, how)
    for how in ("killed", "failing")
    for step in STEPS
    for moment in MOMENTS
    for often in ("once", "for ever")
]
TRIES = 2

PROGRAM = """
import errno, os, signal, sys
agent, step, inner, moment, how, *words = sys.argv[1:]
sys.path.insert(0, agent)
sys.argv = [agent, *words]
from device import activation, disk, service, store, trust
import subprocess
from device.__main__ import main

def end():
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.EIO, os.strerror(errno.EIO))

def wrap(name, around):
    *owner, last = name.split(".")
    modules = (activation, disk, service, store, trust, subprocess)
    place = {module.__name__.rpartition(".")[2]: module for module in modules}[owner[0]]
    for part in owner[1:]:
        place = getattr(place, part)
    real = getattr(place, last)
    setattr(place, last, lambda *a, **k: around(real, *a, **k))

inside = 0

def step_runs(real, *a, **k):
    global inside
    if moment == "begins":
        end()
    inside += 1
    answer = real(*a, **k)
    inside -= 1
    if moment == "ends":
        end()
    return answer

def inner_runs(real, *a, **k):
    if inside and moment == "within":
        end()
    return real(*a, **k)

wrap(step, step_runs)
wrap(inner, inner_runs)
sys.exit(main(words))
"""
"""The agent, ended by SIGKILL or by an error of the disk where it is told to."""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.call("stop")


def activate_badly(board: Board, release: str, case: tuple[str, str, str, str]) -> int:
    step, moment, _, how = case
    verb = ["activate", "--root", str(board.store.root), *board.activation(release)]
    command = [sys.executable, "-c", PROGRAM, str(board.agent), *STEPS[step], moment, how, *verb]
    environment = {**os.environ, "PYTHONPATH": str(board.agent)}
    return subprocess.run(
        command, capture_output=True, env=environment, check=False, timeout=120
    ).returncode


@pytest.mark.slow
@pytest.mark.soak(row=4, short=8, whole=len(CASES))
def test_an_activation_that_is_cut_off_anywhere_leaves_a_release_that_runs_and_no_loop(
    rounds: Rounds, tmp_path: Path
) -> None:
    for number in rounds:
        at = number if rounds.limit == len(CASES) else (number * 13) % len(CASES)
        board = Board(tmp_path / str(number))
        try:
            _one(board, CASES[at])
        finally:
            board.call("stop")
        rounds.saw(f"cases of {CASES[at][3]}, 0 bad")


def _one(board: Board, case: tuple[str, str, str, str]) -> None:
    board.activate(board.add("1"))
    second = board.add("2", counter=2)
    for _ in range(TRIES if case[2] == "for ever" else 1):
        committed = board.store.confirmed()
        done = committed is not None and committed.release == second
        ended = activate_badly(board, second, case)
        assert ended == (0 if done else -9 if case[3] == "killed" else 1), (
            f"{case} ended with {ended}"
        )
        wait_until(lambda: board.running() in ("1", "2"))
    committed = board.store.confirmed()
    assert committed
    assert board.running() == ("2" if committed.release == second else "1")
    if case[2] == "for ever" and case[0] != "commit":
        assert board.running() == "1"
    assert "error" not in board.activate(second)
    assert board.running() == "2"
