"""A toy of the benchmark of distillation: all its arms, on a few answers and random models."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

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
