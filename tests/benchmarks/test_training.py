"""The benchmark of training loops: which peer counts, and what the sides must share."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("training")


def taken(training: ModuleType, cpu_s: float, peak: int, loss: float = 4.0) -> Any:
    return training.Taken(cpu_s=cpu_s, wall_s=cpu_s, tokens=1000, loss=loss, peak_bytes=peak)


def test_speed_is_compared_with_the_faster_peer_and_memory_with_the_smaller_one(
    training: ModuleType,
) -> None:
    rounds = {
        training.OURS: [taken(training, 1.0, 800)] * 3,
        training.TRAINER: [taken(training, 2.0, 2000)] * 3,
        training.TRL: [taken(training, 4.0, 1000)] * 3,
    }
    speed, memory = training._claims("a model", rounds)
    assert (speed.peer, speed.measured, speed.holds) == (training.TRAINER, 2.0, True)
    assert (memory.peer, memory.measured, memory.holds) == (training.TRL, 0.8, True)


def test_sides_that_do_not_learn_the_same_are_no_comparison(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(command: list[str], *_: Any) -> Any:
        return taken(training, 1.0, 1000, loss=4.0 if training.OURS in command else 4.2)

    monkeypatch.setattr(training, "_run", run)
    with pytest.raises(SystemExit, match="the sides do not learn the same"):
        training._rounds("a model", tmp_path, tmp_path, 1)


def test_without_trl_there_is_one_peer_and_it_is_said(
    training: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DEMITASSE_TRL", raising=False)
    monkeypatch.setattr(training, "_run", lambda *_: taken(training, 1.0, 1000))
    rounds = training._rounds("a model", tmp_path, tmp_path, 2)
    assert {way: len(each) for way, each in rounds.items()} == {
        training.OURS: 2,
        training.TRAINER: 2,
    }
    assert "DEMITASSE_TRL names no Python with TRL" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_was_and_other_code_begins_again(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEMITASSE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("DEMITASSE_TRL", raising=False)
    batches = tmp_path / "batches.json"
    batches.write_text("[]")
    runs: list[str] = []

    def run(command: list[str], *_: Any) -> Any:
        if len(runs) == 4:
            raise KeyboardInterrupt
        runs.append(command[2])
        return taken(training, 1.0 + len(runs), 1000)

    monkeypatch.setattr(training, "_run", run)
    with pytest.raises(KeyboardInterrupt):
        training._rounds("a model", tmp_path, batches, 2)
    begun, runs = runs, []
    rounds = training._rounds("a model", tmp_path, batches, 2)
    assert (len(begun), len(runs)) == (4, 2)
    runs.clear()
    assert training._rounds("a model", tmp_path, batches, 2) == rounds
    assert runs == []
    batches.write_text("[[]]")
    with pytest.raises(KeyboardInterrupt):
        training._rounds("a model", tmp_path, batches, 2)
    assert len(runs) == 4
