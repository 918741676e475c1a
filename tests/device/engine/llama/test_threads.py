"""Threads are kept, sleep while they wait, and change neither an answer nor the cores of their
caller.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as llama

from device.engine import load, machine
from device.engine.base import Engine, Sampling, Settings
from device.engine.llama.threads import SLEEPS
from device.engine.machine import others_run, usable_cores
from tests.fakes.tiny_gguf import tiny_gguf

GREEDY = Sampling(max_tokens=24)
QUESTION = list(b"what is it?\n")
patched = pytest.mark.skipif(
    SLEEPS not in llama.llama_print_system_info(), reason="this llama.cpp has not our patch"
)
several = pytest.mark.skipif(usable_cores() < 2, reason="one core has no threads to keep")


@pytest.fixture(scope="module")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("threads") / "random.gguf")


@pytest.fixture
def busy() -> Iterator[None]:
    """A program for each core that never stops."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(usable_cores())]
    yield
    for program in programs:
        program.kill()
        program.wait()


def running() -> set[str]:
    return {task.name for task in Path("/proc/self/task").iterdir()}


def answered(engine: Engine) -> list[int | None]:
    return [step.id for step in engine.generate(QUESTION, GREEDY)]


def loaded(file: Path, threads: int = 0) -> Engine:
    return load(file, Settings(context=128, threads=threads))


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_answer(random_file: Path) -> None:
    engine = loaded(random_file, 1)
    alone = answered(engine)
    for decode, prefill in ((2, 2), (1, 2), (2, 1), (3, 3), (2, 2), (1, 1)):
        engine.use_threads(decode, prefill)
        engine.forget()
        assert answered(engine) == alone
    engine.close()


@patched
@several
def test_threads_are_kept_from_token_to_token_and_end_with_the_engine(random_file: Path) -> None:
    before = running()
    engine = loaded(random_file, 2)
    kept = running() - before
    engine.time_decode(8)
    assert (len(kept), running() - before) == (1, kept)
    engine.close()
    assert running() - before == set()


@patched
@several
def test_each_thread_has_a_core_of_its_own_and_the_caller_keeps_all(random_file: Path) -> None:
    mine, before = os.sched_getaffinity(0), running()
    engine = loaded(random_file, len(mine))
    engine.time_decode(2)
    bound = [os.sched_getaffinity(int(task)) for task in running() - before]
    assert all(len(cores) == 1 for cores in bound)
    assert len(set.union(*map(set, bound))) == len(mine) - 1
    assert os.sched_getaffinity(0) == mine
    engine.close()
    assert os.sched_getaffinity(0) == mine


@patched
@several
def test_fewer_threads_than_cores_and_more_go_where_there_is_room(random_file: Path) -> None:
    mine, before = os.sched_getaffinity(0), running()
    engine = loaded(random_file, len(mine) + 1)
    engine.time_decode(2)
    assert {frozenset(os.sched_getaffinity(int(task))) for task in running() - before} == {
        frozenset(mine)
    }
    engine.close()


@patched
@several
def test_threads_that_have_nothing_to_do_sleep(random_file: Path) -> None:
    before = running()
    engine = loaded(random_file, 2)
    engine.time_decode(2)
    (kept,) = running() - before
    ran = Path(f"/proc/self/task/{kept}/schedstat")
    time.sleep(0.1)
    first = int(ran.read_text().split()[0])
    time.sleep(0.5)
    assert int(ran.read_text().split()[0]) == first
    engine.close()


def test_engines_side_by_side_have_threads_of_their_own(random_file: Path) -> None:
    first = loaded(random_file, 2)
    second = first.new_context()
    assert second
    assert answered(first) == answered(second)
    second.close()
    first.forget()
    assert answered(first) == answered(first)
    first.close()


@pytest.mark.parametrize(
    ("said", "busy"),
    [
        ("0.10 0.20 0.30 1/234 5678\n", False),
        ("0.10 0.20 0.30 3/234 5678\n", True),
        ("9.00 9.00 9.00 1/234 5678\n", False),
        ("nonsense\n", False),
        ("0.1 0.2 0.3 x/y 1\n", False),
    ],
)
def test_others_run_when_more_threads_than_the_one_that_asks_do(
    tmp_path: Path, said: str, busy: bool
) -> None:
    (tmp_path / "loadavg").write_text(said)
    assert others_run(tmp_path / "loadavg") == busy


def test_where_nothing_says_who_runs_nobody_does(tmp_path: Path) -> None:
    assert not others_run(tmp_path / "missing")


@several
def test_a_trial_beside_other_programs_chooses_threads_and_changes_no_answer(
    random_file: Path, busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = loaded(random_file, 1)
    expected = answered(alone)
    alone.close()
    monkeypatch.setattr(machine, "ONE_THREAD_BYTES", 0)
    engine = loaded(random_file)
    assert engine.description.threads in range(1, usable_cores() + 1)
    assert engine.description.threads_batch == engine.description.threads
    context = engine._ctx  # type: ignore[attr-defined]
    assert llama.llama_n_threads(context) == engine.description.threads
    assert answered(engine) == expected
    engine.close()


@several
def test_threads_that_somebody_named_are_not_tried(random_file: Path, busy: None) -> None:
    engine = loaded(random_file, 2)
    assert engine.description.threads == 2
    engine.close()
