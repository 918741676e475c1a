"""What the benchmark of distillation claims: a score's seconds, and student against control."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CONTROL = "control, all labels"


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as the benchmark imports it: from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("distill_claims")


def test_the_seconds_of_a_score_are_read_between_two_points(claims: ModuleType) -> None:
    points = [{"s": 30.0, "exact_match": 0.7}, {"s": 10.0, "exact_match": 0.1}]
    assert claims.reached(points, 0.7) == 30.0
    assert claims.reached(points, 0.4) == pytest.approx(20.0)
    assert claims.reached(points, 0.05) == pytest.approx(5.0)
    assert claims.reached(points, 0.8) is None


def seed_of(claims: ModuleType, student: list[tuple[float, float]]) -> dict[str, Any]:
    """A seed in which the control comes to 60 % in 30 seconds."""

    def points(path: list[tuple[float, float]]) -> list[dict[str, Any]]:
        return [
            {"share": at / 30, "s": at, "exact_match": exact, "questions": 100}
            for at, exact in path
        ]

    control = points([(10.0, 0.1), (30.0, 0.6)])
    return {"labels": 2, "all": 8, CONTROL: control, "search by words": points(student)}


def test_a_student_is_compared_at_the_score_that_its_control_comes_to(
    claims: ModuleType,
) -> None:
    quick = seed_of(claims, [(9.0, 0.6), (30.0, 0.9)])
    score, labels, seconds = claims.claims([quick])
    assert (score.measured, score.holds) == (1.5, True)
    assert (labels.measured, labels.holds) == (0.25, True)
    assert (seconds.measured, seconds.holds) == (0.3, True)
    assert seconds.conditions["reached in"] == "1 of 1 seeds"


def test_a_student_that_never_comes_there_took_all_of_its_seconds(claims: ModuleType) -> None:
    score, _, seconds = claims.claims([seed_of(claims, [(10.0, 0.1), (30.0, 0.3)])])
    assert (score.measured, score.holds) == (0.5, False)
    assert (seconds.measured, seconds.holds) == (1.0, False)
    assert seconds.conditions["reached in"] == "0 of 1 seeds"
