"""The search for settings: it finds the best candidate, spends little on bad ones, and a hot board
does not mislead it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from device.engine.base import Settings
from device.search import CHANGES, SAMPLES, Arm, Budget, arms, clusters, find, halve, search
from tests.fakes.engine import FakeEngine
from tests.fakes.tiny_gguf import tiny_bundle

LITTLE, BIG = (0, 1, 2, 3), (4, 5, 6, 7)


class Clock:
    """A clock that measurements move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Board(FakeEngine):
    """An engine whose speed depends on its threads: `best` is the top, and each thread more or less
    costs a tenth.
    """

    def __init__(self, decode: int, prefill: int, clock: Clock, *, slower: float = 0.0) -> None:
        super().__init__(context=2048)
        self.best, self.clock, self.threads, self.slower = (
            (decode, prefill),
            clock,
            (1, 1, ()),
            slower,
        )

    def _time(self, rate: float, best: int, threads: int, tokens: int) -> float:
        seconds = tokens / (rate * 0.9 ** abs(best - threads)) * (1 + self.slower * self.clock.now)
        self.clock.now += seconds
        return seconds

    def time_decode(self, n_tokens: int) -> float:
        return self._time(30.0, self.best[0], self.threads[0], n_tokens)

    def time_prompt(self, n_tokens: int) -> float:
        return self._time(300.0, self.best[1], self.threads[1], n_tokens)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.search.clusters", lambda: [(0, 1, 2, 3)])
    monkeypatch.setattr("device.search.usable_cores", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("decode", "prefill"), [(2, 4), (4, 4), (1, 3)])
@pytest.mark.parametrize("slower", [0.0, 0.02])
def test_threads_for_answers_and_for_prompts_are_found_apart_also_where_heat_slows_everything(
    decode: int, prefill: int, slower: float
) -> None:
    clock = Clock()
    found, evidence = find(
        lambda settings: Board(decode, prefill, clock, slower=slower),
        Settings(),
        Budget(1000.0, clock),
    )
    assert (found.threads, found.threads_batch, found.cpus) == (decode, prefill, ())
    assert evidence["decode"][0]["threads"] == decode


@pytest.mark.parametrize(("fastest", "chosen"), [(BIG, BIG), (LITTLE + BIG, ())])
def test_the_cores_that_are_fastest_are_part_of_what_is_found(
    fastest: tuple[int, ...], chosen: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = [set(LITTLE + BIG)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed[-1]))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: allowed.append(set(cpus)))
    monkeypatch.setattr("device.search.clusters", lambda: [BIG, LITTLE])
    monkeypatch.setattr("device.search.usable_cores", lambda: 8)
    opened: list[set[int]] = []

    class Pinned(Board):
        """Binds the thread that calls it to the given cores, as llama.cpp's engine does, until it
        is closed.
        """

        def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
            super().use_threads(decode, prefill, cpus)
            os.sched_setaffinity(0, cpus)

        def close(self) -> None:
            os.sched_setaffinity(0, {*LITTLE, *BIG})

        def _time(self, rate: float, best: int, threads: int, tokens: int) -> float:
            pinned = os.sched_getaffinity(0) == set(fastest)
            return super()._time(rate if pinned else rate / 2, best, threads, tokens)

    def open_engine(settings: Settings) -> Pinned:
        opened.append(os.sched_getaffinity(0))
        engine = Pinned(4, 4, Clock())
        engine.use_threads(
            settings.threads or 4, settings.threads_batch or 4, settings.cpus or LITTLE + BIG
        )
        return engine

    found, _ = find(open_engine, Settings(), Budget(1e9))
    assert (found.threads, found.cpus) == (4, chosen)
    assert opened == [set(LITTLE + BIG)] * len(opened), (
        "an engine takes for all cores what it finds"
    )
    assert allowed[-1] == set(LITTLE + BIG)


def test_each_round_halves_the_candidates_and_doubles_the_work() -> None:
    spent: dict[int, list[int]] = {}

    def rate(arm: Arm, tokens: int) -> float:
        spent.setdefault(arm.threads, []).append(tokens)
        return float(arm.threads)

    trials = halve([Arm(threads, ()) for threads in range(1, 9)], rate, 8, Budget(60.0))
    assert [(trial.arm.threads, trial.rounds) for trial in trials[:3]] == [
        (8, 4 - 1),
        (7, 3),
        (6, 2),
    ]
    assert spent[1] == [8] * SAMPLES and spent[8] == [8] * SAMPLES + [16] * SAMPLES + [32] * SAMPLES


def test_candidates_take_turns_in_both_directions() -> None:
    order: list[int] = []
    halve(
        [Arm(1, ()), Arm(2, ()), Arm(3, ())],
        lambda arm, tokens: order.append(arm.threads) or 1.0,
        1,
        Budget(0.0),
    )
    assert order == [1, 2, 3, 3, 2, 1]


def test_a_spent_budget_ends_the_search_after_its_first_round() -> None:
    trials = halve(
        [Arm(threads, ()) for threads in (1, 2, 3, 4)],
        lambda arm, tokens: float(arm.threads),
        8,
        Budget(0.0),
    )
    assert [trial.rounds for trial in trials] == [1] * 4 and trials[0].arm.threads == 4


def test_big_cores_are_tried_alone_and_with_the_little_ones() -> None:
    found = arms([BIG, LITTLE], 8)
    assert [arm.threads for arm in found if arm.cpus == BIG] == [1, 2, 3, 4]
    assert [arm.threads for arm in found if arm.cpus == LITTLE + BIG] == list(range(1, 9))
    assert {arm.cpus for arm in arms([LITTLE], 2)} == {LITTLE} and len(arms([LITTLE], 2)) == 2


def test_clusters_are_cores_of_one_clock_the_fastest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text("2208000\n" if cpu in BIG else "1800000\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert clusters(tmp_path) == [BIG, LITTLE]
    assert clusters(tmp_path / "none") == [LITTLE + BIG]


@pytest.mark.usefixtures("four_cores")
def test_a_change_is_kept_only_where_it_is_clearly_faster() -> None:
    clock, opened = Clock(), []

    def open_engine(settings: Settings) -> Board:
        opened.append(settings)
        board = Board(4, 4, clock)
        board.use_threads(4, 4)
        if settings.batch == 128:
            board.best = (4, 4)
            board.time_prompt = lambda n_tokens: n_tokens / 600.0  # type: ignore[method-assign]
        return board

    found, evidence = find(open_engine, Settings(), Budget(1e9, clock))
    assert [change["change"] for change in evidence["changes"] if change["kept"]] == [
        {"batch": 128}
    ]
    assert found == replace(Settings(), threads=4, threads_batch=4, batch=128)
    assert len(opened) == 2 + len(CHANGES)


def test_a_real_model_is_searched_within_its_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    assert search(["--bundle", str(bundle), "--budget", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["threads"] >= 1 and found["settings"]["kv_type"] in ("f16", "q8_0")
    assert found["evidence"]["decode"][0]["tok_s"] > 0


def test_cores_are_used_and_given_back(tmp_path: Path) -> None:
    from device.model import open_file

    cores: Sequence[int] = sorted(os.sched_getaffinity(0))
    engine = open_file(tiny_bundle(tmp_path / "bundle") / "tiny.gguf", Settings(context=64)).engine
    engine.use_threads(1, 1, cores[:1])
    assert os.sched_getaffinity(0) == {cores[0]}
    engine.use_threads(1, 1)
    assert sorted(os.sched_getaffinity(0)) == cores
    engine.use_threads(1, 1, cores[:1])
    engine.close()
    assert sorted(os.sched_getaffinity(0)) == cores
