"""tune of a model with eyes: a new question about pictures is learned, the eyes stay the same."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.eyes import can_see
from tests.fakes.halves import (
    OLD,
    OLD_WORDS,
    assert_adapter_is_what_was_merged,
    assert_new_question_is_learned,
    assert_only_layers_changed,
    dataset,
    new_question,
    right_answers,
    rows,
)
from tests.fakes.halves import SPEC as USUAL
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.pretrain import pretrain
from toolchain.progress import Silent
from toolchain.recipe import EyesSpec, ScratchSpec
from toolchain.tune import tune

SCRATCH = ScratchSpec(
    vocab_size=340,
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    context=64,
    steps=150,
    batch_size=16,
    learning_rate=3e-3,
    eyes=EyesSpec(side=32, patch=8, hidden_size=32, heads=2, layers=1),
)
SPEC = USUAL.model_copy(update={"max_tokens": 64})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Eyes that have learned one question; the words of the other are in their vocabulary."""
    folder = tmp_path_factory.mktemp("base")
    learned = dataset(folder / "learned", rows(OLD, range(200), OLD_WORDS))
    return pretrain(learned, SCRATCH, folder / "model", Silent(), seed=0)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return new_question(tmp_path_factory.mktemp("taught") / "rows")


@pytest.fixture(scope="module")
def tuned(
    base: Checkpoint, taught: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    return tune(base, taught, SPEC, tmp_path_factory.mktemp("tuned"), Silent(), seed=0)


def test_a_new_question_about_held_out_pictures_is_learned(tuned: Checkpoint) -> None:
    assert_new_question_is_learned(tuned)


def test_the_eyes_stay_as_they_were_and_travel_with_the_merge(
    base: Checkpoint, tuned: Checkpoint
) -> None:
    assert_only_layers_changed(base, tuned, "model.text_model.layers.")
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert (tuned.path / name).read_bytes() == (base.path / name).read_bytes()


def test_peft_loads_the_adapter_on_transformers_own_model_as_what_was_merged(
    base: Checkpoint, taught: Dataset, tuned: Checkpoint
) -> None:
    assert_adapter_is_what_was_merged(base, tuned, taught.held_out()[:20])


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(
    base: Checkpoint, taught: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.training import loop

    spec = SPEC.model_copy(update={"epochs": 1, "questions": 4})
    whole = tune(base, taught, spec, tmp_path / "whole", Silent(), seed=0)
    count = loop.Progress.count_step

    def die(self: Any, loss: float, tokens: int) -> None:
        count(self, loss, tokens)
        self.saved = 0.0
        if self.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(loop.Progress, "count_step", die)
        tune(base, taught, spec, tmp_path / "cut", Silent(), seed=0)
    again = tune(base, taught, spec, tmp_path / "cut", Silent(), seed=0)
    assert again.digest == whole.digest


@pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
def test_a_board_answers_the_new_question_from_the_quantized_files(
    taught: Dataset, tuned: Checkpoint, tmp_path: Path
) -> None:
    right, _ = right_answers(tmp_path, tuned, taught.held_out()[:30])
    assert right >= 27
