"""A toy of the benchmark of distillation: all its arms, on a few answers and random models."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import distill_card
from tests.fakes.models import tiny_llama
from toolchain.chat import IGNORED
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.training.examples import Example

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CONTROL = "control, all labels"


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("distill")


@pytest.mark.slow
def test_every_arm_is_trained_and_scored_and_none_sees_more_labels_than_it_may(
    distill: ModuleType, tmp_path: Path
) -> None:
    (run,) = distill.run(distill.QUICK, tmp_path, "")
    entries = distill.QUICK.entries
    whole = run[CONTROL][-1]["rows"]
    assert run["labels"] == entries == run["control, labels"][0]["rows"]
    assert run["all"] == whole >= 4 * entries
    for name in distill.QUICK.arms:
        text = distill.ARMS[name].text
        for point in run[name]:
            assert 0 <= point["exact_match"] <= 1
            assert point["s"] > point["teacher_s"]
            if f"written: {text}" in run:
                assert point["rows"] == entries + run[f"written: {text}"]["kept"]
    assert run["written: by words"]["right"] > 0.8
    assert run["written: written questions"]["kept"] > entries
    few = (tmp_path / "seed-0" / "few" / "train.jsonl").read_text().splitlines()
    assert len(few) == entries

    score, labels, seconds = distill.claims([run])
    assert (score.goal, labels.goal, seconds.goal) == (1.0, 0.333, 0.333)
    assert labels.measured == round(entries / whole, 3)
    assert seconds.measured > 0


@pytest.mark.slow
def test_a_second_run_trains_nothing_that_is_there(distill: ModuleType, tmp_path: Path) -> None:
    plan = replace(distill.QUICK, arms=("control, labels",))
    first = distill.run(plan, tmp_path, "")
    assert distill.run(plan, tmp_path, "") == first


def test_the_seconds_of_a_score_are_read_between_two_points(distill: ModuleType) -> None:
    points = [{"s": 30.0, "exact_match": 0.7}, {"s": 10.0, "exact_match": 0.1}]
    assert distill.reached(points, 0.7) == 30.0
    assert distill.reached(points, 0.4) == pytest.approx(20.0)
    assert distill.reached(points, 0.05) == pytest.approx(5.0)
    assert distill.reached(points, 0.8) is None


def seed_of(distill: ModuleType, student: list[tuple[float, float]]) -> dict[str, Any]:
    """A seed in which the control comes to 60 % in 30 seconds."""

    def points(path: list[tuple[float, float]]) -> list[dict[str, Any]]:
        return [
            {"share": at / 30, "s": at, "exact_match": exact, "questions": 100}
            for at, exact in path
        ]

    control = points([(10.0, 0.1), (30.0, 0.6)])
    return {"labels": 2, "all": 8, CONTROL: control, "search by words": points(student)}


def test_a_student_is_compared_at_the_score_that_its_control_comes_to(
    distill: ModuleType,
) -> None:
    quick = seed_of(distill, [(9.0, 0.6), (30.0, 0.9)])
    score, labels, seconds = distill.claims([quick])
    assert (score.measured, score.holds) == (1.5, True)
    assert (labels.measured, labels.holds) == (0.25, True)
    assert (seconds.measured, seconds.holds) == (0.3, True)
    assert seconds.conditions["reached in"] == "1 of 1 seeds"


def test_a_student_that_never_comes_there_took_all_of_its_seconds(distill: ModuleType) -> None:
    score, _, seconds = distill.claims([seed_of(distill, [(10.0, 0.1), (30.0, 0.3)])])
    assert (score.measured, score.holds) == (0.5, False)
    assert (seconds.measured, seconds.holds) == (1.0, False)
    assert seconds.conditions["reached in"] == "0 of 1 seeds"


def test_the_beginning_of_an_answer_ends_behind_its_first_learned_tokens(
    distill: ModuleType,
) -> None:
    example = Example(ids=[5, 6, 7, 8, 9], labels=[IGNORED, IGNORED, 7, 8, 9])
    short = distill._beginning(example, 2)
    assert (list(short.ids), list(short.labels)) == ([5, 6, 7, 8], [IGNORED, IGNORED, 7, 8])


@pytest.mark.parametrize("shape", [(4, 64), (3, 10), (7,)])
def test_a_packed_tensor_is_within_half_a_step_of_four_bits(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    back = distill_card.unpacked(distill_card.packed4(values))
    assert back.shape == shape
    # Least value and step are of 16 bits: a little more than half a step.
    step = np.ptp(values) / 15
    assert np.abs(back - values).max() <= 0.55 * step


def test_a_model_that_was_packed_in_parts_is_joined_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = tiny_llama(tmp_path / "m", hidden=64, intermediate=64, layers=1, heads=2, kv_heads=1)
    monkeypatch.setattr(distill_card, "MOST_BYTES", 20_000)
    distill_card.pack(model, tmp_path / "kit")
    parts = sorted((tmp_path / "kit").iterdir())
    assert len(parts) > 1
    joined = load_model(distill_card.join(parts, tmp_path / "joined")).state_dict()
    for name, values in load_model(model).state_dict().items():
        torch.testing.assert_close(joined[name], values, atol=0.02, rtol=0)
    load_tokenizer(tmp_path / "joined")
