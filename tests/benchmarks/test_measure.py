"""What all benchmarks share: order, ratio and interval."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure


def test_each_case_runs_once_a_round_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def case(name: str) -> measure.Case:
        def run() -> float:
            calls.append(name)
            return float(len(calls))

        return run

    figures = measure.interleave({"a": case("a"), "b": case("b")}, rounds=5)
    assert [sorted(calls[at : at + 2]) for at in range(0, 12, 2)] == [["a", "b"]] * 6
    assert {name: len(values) for name, values in figures.items()} == {"a": 5, "b": 5}
    assert min(figures["a"] + figures["b"]) == 3.0


@pytest.mark.parametrize(
    ("better", "goal", "holds"),
    [("more", 1.9, True), ("more", 2.1, False), ("less", 2.1, True), ("less", 1.9, False)],
)
def test_a_claim_is_ours_over_theirs(better: str, goal: float, holds: bool) -> None:
    one = measure.claim(
        "c", "p", goal, [19.0, 20.0, 21.0], [10.0, 10.0, 10.0], {"size_mb": 1}, better=better
    )  # type: ignore[arg-type]
    assert (one.measured, one.ci, one.holds) == (2.0, (1.9, 2.1), holds)
    assert (one.conditions["rounds"], one.conditions["size_mb"]) == (3, 1)


def test_a_paired_claim_draws_the_same_items_for_both_sides() -> None:
    theirs = [1.0, 100.0, 3.0, 50.0]
    one = measure.paired("c", "p", 0.5, [value / 2 for value in theirs], theirs, {"size_mb": 1})
    assert (one.measured, one.ci, one.holds) == (0.5, (0.5, 0.5), True)
    assert (one.conditions["items"], one.conditions["size_mb"]) == (4, 1)


def test_a_paired_claim_that_misses_its_goal_says_so_with_its_interval() -> None:
    one = measure.paired("c", "p", 0.5, [1.0, 2.0, 3.0], [2.0, 3.0, 4.0], {})
    assert (one.measured, one.holds) == (0.667, False)
    assert 0.5 <= one.ci[0] < 0.667 < one.ci[1] <= 0.75


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import measure
first = measure.peak_bytes()
kept = bytearray(b"1" * (64 << 20))
del kept
print(first, measure.peak_bytes())
"""


def test_a_peak_is_that_of_the_process_alone_and_stays() -> None:
    large = bytearray(b"1" * (256 << 20))
    folder = str(Path(measure.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder], capture_output=True, text=True, check=True
    )
    del large
    first, last = map(int, done.stdout.split())
    assert first < 128 << 20
    assert last - first > 48 << 20
