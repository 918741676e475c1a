"""bf16 learns as float32 does, and `auto` takes it only where it is faster."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.models import tiny_llama
from toolchain.models.checkpoints import load_model
from toolchain.progress import Silent
from toolchain.recipe import LoraSpec, Precision
from toolchain.training import precision
from toolchain.training.answers import loss_per_token
from toolchain.training.examples import Example, batch_of
from toolchain.training.loop import Course, train
from toolchain.training.lora import with_lora
from toolchain.training.objectives import AnswerLoss
from toolchain.training.precision import BF16, FLOAT32, choose, hold

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
EXAMPLES = [
    Example(ids=ids, labels=ids)
    for ids in ([(11 * (n % 4) + 3 * k) % 500 for k in range(6 + n % 5)] for n in range(24))
]
HELD_OUT = [
    Example(ids=ids, labels=ids)
    for ids in ([(11 * n + 3 * k) % 500 for k in range(12)] for n in range(4))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden": 64, "intermediate": 128, "layers": 2, "tied": True}
    return tiny_llama(tmp_path_factory.mktemp("model"), **shape)


def learned(folder: Path, kind: Precision, seed: int, resume: Path) -> tuple[float, Any]:
    """Return the loss on held-out text after a training, and its figures."""
    spec = LoraSpec(dropout=0.0, target_modules=ALL)
    model = with_lora(load_model(folder), spec, seed, stage="tune").get_base_model()
    course = Course(
        name="course",
        steps=60,
        batch_size=6,
        learning_rate=1e-2,
        warmup_share=0.1,
        seed=seed,
        precision=kind,
    )
    figures = train(AnswerLoss(model), EXAMPLES, course, resume, Silent())
    loss = loss_per_token(model.float(), HELD_OUT)
    assert loss is not None
    return loss, figures


def test_it_learns_as_float32_does(folder: Path, tmp_path: Path) -> None:
    untrained = loss_per_token(load_model(folder), HELD_OUT)
    losses: dict[Precision, list[float]] = {FLOAT32: [], BF16: []}
    for kind, of in losses.items():
        for seed in range(3):
            loss, figures = learned(folder, kind, seed, tmp_path / f"{kind}-{seed}")
            assert figures["precision"] == kind
            of.append(loss)
    exact, rounded = losses[FLOAT32], losses[BF16]
    assert untrained is not None
    assert max(exact) < 0.7 * untrained
    spread = max(exact) - min(exact)
    mean = sum(rounded) / 3 - sum(exact) / 3
    assert abs(mean) < max(spread, 0.02 * (untrained - sum(exact) / 3))


class _Loss(torch.nn.Module):
    """A loss that takes longer in one of the types."""

    def __init__(self, slow: Precision) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self._slow = slow

    def forward(self, batch: object) -> torch.Tensor:
        """Return a loss."""
        if torch.is_autocast_enabled("cpu") == (self._slow == BF16):
            for _ in range(20):
                torch.ones(300, 300) @ torch.ones(300, 300)
        return self.layer(torch.ones(1, 4)).float().sum()


BATCH = batch_of(EXAMPLES, [0])
CPU = torch.device("cpu")


@pytest.mark.parametrize(("slow", "chosen"), [(FLOAT32, BF16), (BF16, FLOAT32)])
def test_auto_takes_what_is_faster(
    slow: Precision, chosen: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "WORTH_S", 0.0)
    loss = _Loss(slow)
    assert choose("auto", loss, BATCH, CPU) == chosen
    assert all(parameter.grad is None for parameter in loss.parameters())


def test_a_pass_that_is_too_short_to_be_measured_stays_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "WORTH_S", 1e9)
    assert choose("auto", _Loss(FLOAT32), BATCH, CPU) == FLOAT32


@pytest.mark.parametrize("asked", [FLOAT32, BF16])
def test_what_a_recipe_says_is_not_tried(asked: Precision) -> None:
    assert choose(asked, _Loss(asked), BATCH, CPU) == asked


def test_weights_of_16_bits_are_left_as_they_are() -> None:
    assert choose("auto", _Loss(FLOAT32).to(torch.bfloat16), BATCH, CPU) == FLOAT32


def test_a_processor_without_bfloat16_is_not_tried_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    class Slow(_Loss):
        def forward(self, batch: object) -> torch.Tensor:
            seen.append(BF16 if torch.is_autocast_enabled("cpu") else FLOAT32)
            return super().forward(batch)

    monkeypatch.setattr(precision, "TRIALS", 9)
    monkeypatch.setattr(precision, "WORTH_S", 0.0)
    assert choose("auto", Slow(BF16), BATCH, CPU) == FLOAT32
    assert seen.count(BF16) < 9


def test_frozen_weights_are_held_as_autocast_would_round_them(folder: Path) -> None:
    model = with_lora(load_model(folder), LoraSpec(), 0, stage="tune").get_base_model()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    assert hold(BF16, model) == 2 * 7
    for name, value in model.state_dict().items():
        is_held = name.endswith("weight") and "proj" in name and "lora" not in name
        if is_held or name == "lm_head.weight":
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, own[name].to(torch.bfloat16))
        else:
            assert torch.equal(value, own[name])


def test_a_model_that_learns_whole_is_not_held(folder: Path) -> None:
    model = load_model(folder)
    assert hold(BF16, model) == 0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
