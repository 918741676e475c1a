"""What the trainings of `distill.py` say of its goal: score, labels and seconds."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import measure
from distill_arms import ARMS, LABELS, TRUE

THIRD = round(1 / 3, 3)
Point = Mapping[str, Any]
"""One training of an arm: share of the control's steps, seconds, scores."""


def reached(points: Sequence[Point], goal: float) -> float | None:
    """Return the seconds at which an arm's score first is `goal`, between points by a line.

    None if it never is.
    """
    path = [(0.0, 0.0), *sorted((each["s"], each["exact_match"]) for each in points)]
    for (before, low), (after, high) in itertools.pairwise(path):
        if high >= goal:
            seconds: float = after - (after - before) * (high - goal) / max(high - low, 1e-9)
            return seconds
    return None


def claims(runs: Sequence[Mapping[str, Any]]) -> list[measure.Claim]:
    """Return the three parts of the goal: the best student of all seeds, and the best control."""
    common = [name for name in ARMS if all(name in run for run in runs)]
    controls = [name for name in common if ARMS[name].text == TRUE]
    students = [name for name in common if ARMS[name].text not in (TRUE, LABELS)]
    control, best = (
        max(names, key=lambda name: sum(_whole(run, name) for run in runs))
        for names in (controls, students)
    )
    final = [_whole(run, control) for run in runs]
    goals = list(zip(runs, final, strict=True))
    is_reached = [reached(run[best], goal) is not None for run, goal in goals]
    return [
        measure.claim(
            f"exact match with a quarter of the labels ({best})",
            control,
            1.0,
            [_whole(run, best) for run in runs],
            final,
            {"seeds": len(runs), "arms": _listed(runs)},
        ),
        measure.claim(
            "labels of that student",
            control,
            THIRD,
            [run["labels"] for run in runs],
            [run["all"] for run in runs],
            {},
            better="less",
        ),
        measure.claim(
            "device seconds to the control's final score, its teacher's too",
            control,
            THIRD,
            [_seconds(run[best], goal) for run, goal in goals],
            [_seconds(run[control], goal) for run, goal in goals],
            {"reached in": f"{sum(is_reached)} of {len(runs)} seeds"},
            better="less",
        ),
    ]


def _seconds(points: Sequence[Point], goal: float) -> float:
    """Return the seconds to a score; of an arm that never comes there all of them, at least."""
    found = reached(points, goal)
    return max(float(each["s"]) for each in points) if found is None else found


def _whole(run: Mapping[str, Any], name: str) -> float:
    """Return an arm's exact match after the control's steps; at least half an answer: a ratio."""
    point = next(each for each in run[name] if each["share"] == 1)
    return max(float(point["exact_match"]), 0.5 / int(point["questions"]))


def _listed(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the points of each arm: a share of the control's steps, seconds, scores by seed."""
    listed: dict[str, str] = {}
    for name in ARMS:
        points = [point for run in runs for point in run.get(name, ())]
        for share in sorted({point["share"] for point in points}):
            having = [point for point in points if point["share"] == share]
            seconds = statistics.mean(point["s"] for point in having)
            scores = "/".join(f"{point['exact_match']:.3f}" for point in having)
            listed[f"{name} × {share:.2f}"] = f"{seconds:.1f} s {scores}"
    return listed
