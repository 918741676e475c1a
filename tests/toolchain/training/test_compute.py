"""What is chosen for a training stands in its figures, and a run that goes on keeps it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from tests.fakes.models import tiny_llama
from toolchain.chat import IGNORED
from toolchain.models.checkpoints import load_model
from toolchain.progress import Silent
from toolchain.recipe import LoraSpec, Precision
from toolchain.training import compute
from toolchain.training.compute import Compute, computing
from toolchain.training.examples import Example
from toolchain.training.loop import Course, train
from toolchain.training.lora import with_lora
from toolchain.training.objectives import AnswerLoss

EXAMPLES = [
    Example(ids=ids, labels=ids)
    for ids in ([(7 * n + k) % 500 for k in range(5 + n % 4)] for n in range(13))
]
COURSE = Course(name="course", steps=6, batch_size=6, learning_rate=1e-2, warmup_share=0.2, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), hidden=64, layers=2)


Trained = Callable[..., tuple[Any, dict[str, Any]]]


@pytest.fixture
def trained(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Return what trains with so many bytes of memory."""

    def run(available: int, course: Course = COURSE, where: str = "") -> tuple[Any, dict[str, Any]]:
        monkeypatch.setattr(compute, "available_bytes", lambda *_: available)
        model = load_model(folder)
        resume = tmp_path / (where or str(available))
        return model, dict(train(AnswerLoss(model), EXAMPLES, course, resume, Silent()))

    return run


def far(one: Any, other: Any) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("available", [200_000, 1], ids=["some", "none"])
def test_in_little_memory_the_same_is_learned_in_parts(trained: Trained, available: int) -> None:
    whole, plain = trained(1 << 40)
    parts, figures = trained(available)
    assert (plain["parts"], plain["checkpointing"]) == (1, False)
    assert figures["parts"] > 1
    assert figures["checkpointing"]
    assert figures["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    assert far(whole, parts) < 1e-3


def test_an_adapter_learns_the_same_in_bf16_with_layers_that_are_computed_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = replace(COURSE, precision="bf16", steps=20)
    losses = {}
    for available in (1 << 40, 1):
        monkeypatch.setattr(compute, "available_bytes", lambda *_, left=available: left)
        spec = LoraSpec(dropout=0.0, r=4, target_modules=("q_proj", "v_proj", "up_proj"))
        model = with_lora(load_model(folder), spec, 0, stage="tune").get_base_model()
        resume = tmp_path / str(available)
        figures = train(AnswerLoss(model), EXAMPLES, course, resume, Silent())
        assert figures["checkpointing"] == (available == 1)
        losses[available] = figures["loss"]
    assert losses[1] == pytest.approx(losses[1 << 40], rel=0.01)


def test_the_model_is_as_before_afterwards(trained: Trained) -> None:
    model, _ = trained(1)
    assert not model.is_activation_checkpointing
    assert model.config._attn_implementation == "sdpa"


def test_a_run_that_goes_on_computes_as_it_began(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, begun = trained(1, replace(COURSE, save_every_s=0), where="one")
    with safe_open(tmp_path / "one" / "course" / "state.safetensors", "pt") as state:
        kept = Compute.of_text(state.metadata()["compute"])
    assert kept.precision_reason == begun["precision_reason"] == "the recipe says so"
    assert (kept.parts, kept.checkpointing) == (begun["parts"], begun["checkpointing"])
    _, again = trained(1 << 40, replace(COURSE, steps=9), where="one")
    assert again["steps"] == 9
    assert (again["parts"], again["checkpointing"]) == (begun["parts"], begun["checkpointing"])


class StoppedError(Exception):
    """What interrupts a training."""


class Stopper(Silent):
    """A reporter that ends a training after a step."""

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        if done == 5:
            raise StoppedError


@pytest.mark.parametrize("kind", ["float32", "bf16"])
def test_an_adapter_that_reads_a_shared_beginning_in_parts_goes_on_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Precision
) -> None:
    beginning = [5 + 3 * k % 300 for k in range(70)]
    examples = [
        Example(ids=ids, labels=[IGNORED] * 70 + ids[70:])
        for ids in ([*beginning, *(7 * n + k for k in range(3 + 5 * n % 11))] for n in range(13))
    ]
    course = replace(COURSE, steps=9, precision=kind, save_every_s=0)
    monkeypatch.setattr(compute, "fit", lambda **_: (2, False))

    def learned(where: str, report: Any) -> torch.Tensor:
        spec = LoraSpec(r=4)
        model = with_lora(load_model(folder), spec, 0, stage="tune").get_base_model()
        figures = train(AnswerLoss(model), examples, course, tmp_path / where, report)
        assert (figures["parts"], figures["precision"]) == (2, kind)
        return torch.cat([each.flatten() for each in model.parameters() if each.requires_grad])

    whole = learned("whole", Silent())
    with pytest.raises(StoppedError):
        learned("stopped", Stopper())
    assert torch.equal(learned("stopped", Silent()), whole)


def test_a_text_gives_what_it_was_made_of() -> None:
    one = Compute(precision="bf16", precision_reason="so", parts=3, checkpointing=True)
    assert Compute.of_text(one.text()) == one


def test_a_loss_that_needs_its_whole_batch_is_neither_cut_nor_tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "available_bytes", lambda *_: 1)
    objective = AnswerLoss(load_model(folder))
    objective.__dict__["needs_whole_batch"] = True

    class Alone:
        is_main_process = True
        num_processes = 1
        device = torch.device("cpu")

    # No process can try alone what all of them compute together.
    monkeypatch.setattr(compute, "saved_bytes", None)
    found = compute._chosen(objective, EXAMPLES, Alone(), "auto", 2)
    assert (found.precision, found.parts, found.checkpointing) == ("float32", 1, False)
    assert found.precision_reason


def test_choosing_leaves_no_trace_in_what_is_drawn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    monkeypatch.setattr(compute, "_choose", lambda *_: (torch.rand(9), Compute())[1])

    class Alone:
        is_main_process = True
        num_processes = 1

    assert (
        compute._chosen(AnswerLoss(load_model(folder)), EXAMPLES, Alone(), "auto", 2) == Compute()
    )
    assert torch.equal(torch.rand(1), wanted)


def test_what_all_rows_begin_with_is_counted_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts(begin: Callable[[int], list[int]]) -> int:
        examples = [Example(ids=[*begin(row), 5, 6, row], labels=[5] * 203) for row in range(8)]
        with computing(
            AnswerLoss(load_model(folder)),
            examples,
            Accelerator(cpu=True),
            precision="float32",
            batch_size=8,
            begun=None,
        ) as chosen:
            return chosen.parts

    monkeypatch.setattr(compute, "available_bytes", lambda *_: 20_000_000)
    alike = parts(lambda _: list(range(100, 300)))
    unlike = parts(lambda row: [row + 10] * 200)
    assert (alike, unlike > 1) == (1, True)
