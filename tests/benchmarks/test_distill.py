"""A toy of the benchmark of distillation: all its arms, on a few answers and random models."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks.gpu import distill_card
from tests.fakes.models import tiny_llama
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.teaching.writers import How

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PAIRS = [
    ("how do I cool it", "A fan goes onto pins 4 and 6."),
    ("where does sound come out", "Out of the headphone jack."),
]


@pytest.fixture
def distill(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("distill")


def asked(*questions: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": each}] for each in questions]


def test_the_search_answers_where_it_is_clear(distill: ModuleType) -> None:
    said = distill.SearchWriter(PAIRS, rounds=1).say(
        asked("how to cool it down", "zzz", "where is the sound jack"), How(max_tokens=1)
    )
    assert [each.whole for each in said] == [True, False, True]
    assert (said[0].text, said[2].text) == (PAIRS[0][1], PAIRS[1][1])


def test_a_second_round_asks_the_questions_that_were_clear(distill: ModuleType) -> None:
    chain = asked("how to cool the board down", "put the board down slowly")
    once, twice = (
        distill.SearchWriter(PAIRS, rounds=rounds).say(chain, How(max_tokens=1))
        for rounds in (1, 2)
    )
    assert [each.whole for each in once] == [True, False]
    assert [each.whole for each in twice] == [True, True]
    assert twice[1].text == PAIRS[0][1]


@pytest.mark.slow
def test_every_arm_is_trained_and_scored_and_none_sees_more_labels_than_it_may(
    distill: ModuleType, tmp_path: Path
) -> None:
    (run,) = distill.run(distill.QUICK, tmp_path, "")
    entries = distill.QUICK.entries
    assert run["labels"] == run["control, labels"]["rows"] == entries
    assert run[distill.CONTROL]["rows"] >= 4 * entries
    for name in distill.STUDENTS:
        kept = run[f"written by {name}"]["kept"]
        assert run[name]["rows"] == entries + kept
        assert 0 <= run[name]["exact_match"] <= 1
        assert run["s"][name] > 0
    assert run["written by search"]["right"] > 0.8
    few = (tmp_path / "seed-0" / "few" / "train.jsonl").read_text().splitlines()
    assert len(few) == entries

    score, seconds = distill.claims([run])
    assert (score.goal, seconds.goal) == (1.0, 0.333)
    assert score.conditions["labels"] == f"{entries} against {run[distill.CONTROL]['rows']}"
    assert seconds.measured > 0


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
