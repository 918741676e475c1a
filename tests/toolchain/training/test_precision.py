"""bf16 learns as float32 does, and `auto` takes it by facts that are the same in a second run."""

import math
import time
from itertools import count
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
from toolchain.training.examples import Example
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


def learned(
    folder: Path, kind: Precision, seed: int, resume: Path, steps: int = 60
) -> tuple[float, Any]:
    """Return the loss on held-out text after a training, and its figures."""
    spec = LoraSpec(dropout=0.0, target_modules=ALL)
    model = with_lora(load_model(folder), spec, seed, stage="tune").get_base_model()
    course = Course(
        name="course",
        steps=steps,
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


CPU = torch.device("cpu")
MANY, FEW = 1 << 40, 1


@pytest.fixture
def feature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bfloat16."""
    told = {"avx512_bf16": True, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def model_of(dtype: torch.dtype = torch.float32) -> Any:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)).to(dtype)


@pytest.mark.usefixtures("feature")
def test_auto_takes_bf16_for_large_batches_and_says_why() -> None:
    assert choose("auto", model_of(), MANY, CPU) == (
        BF16,
        "the processor has avx512_bf16, a batch is 70369 billion products",
    )


@pytest.mark.usefixtures("feature")
def test_auto_takes_float32_for_small_batches_and_says_why() -> None:
    kind, reason = choose("auto", model_of(), FEW, CPU)
    assert kind == FLOAT32
    assert reason == "a batch is 6.4e-08 billion products, which are few"


@pytest.mark.parametrize("told", [{}, {"avx512_bf16": False, "avx512_f": True}])
def test_auto_takes_float32_where_the_processor_does_not_multiply_bfloat16(
    told: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert choose("auto", model_of(), MANY, CPU) == (
        FLOAT32,
        "the processor does not multiply bfloat16",
    )


@pytest.mark.usefixtures("feature")
def test_a_torch_without_fast_kernels_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose("auto", model_of(), MANY, CPU)[0] == FLOAT32


@pytest.mark.parametrize("asked", [FLOAT32, BF16])
def test_what_a_recipe_says_is_taken(asked: Precision) -> None:
    assert choose(asked, model_of(), FEW, CPU) == (asked, "the recipe says so")


@pytest.mark.usefixtures("feature")
def test_weights_of_16_bits_are_left_as_they_are() -> None:
    assert choose("auto", model_of(torch.bfloat16), MANY, CPU)[0] == FLOAT32


@pytest.mark.usefixtures("feature")
@pytest.mark.parametrize(("least", "kind"), [(0.0, BF16), (math.inf, FLOAT32)])
def test_no_clock_decides_so_a_second_training_gives_equal_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, kind: Precision
) -> None:
    monkeypatch.setattr(precision, "LEAST_PRODUCTS", least)
    clocks = (iter(range(1, 1 << 30)), (2.0**n for n in count()))
    losses, reasons = set(), set()
    for number, clock in enumerate(clocks):
        for name in ("process_time", "monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, lambda clock=clock: float(next(clock)))
        loss, figures = learned(folder, "auto", 0, tmp_path / str(number), steps=6)
        losses.add(loss)
        reasons.add(figures["precision_reason"])
        assert figures["precision"] == kind
    assert len(losses) == len(reasons) == 1


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
