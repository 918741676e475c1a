"""QLoRA: four bits are measured before they are trained on, and the better of two merges ships."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.fakes.datasets import Recorder
from tests.fakes.models import tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.errors import GateError
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.recipe import TuneSpec
from toolchain.training.answers import loss_per_token
from toolchain.training.examples import conversations
from toolchain.training.four_bits import (
    FOUR,
    SIXTEEN,
    Rounded,
    check_cost,
    figures_of,
    round_linears,
    write_rounded,
)
from toolchain.training.loop import Course
from toolchain.tune import TuneFigures, merge, tune

pytest.importorskip("bitsandbytes")
SMALL = {"hidden": 128, "intermediate": 128, "layers": 2, "heads": 2, "kv_heads": 1}
SPEC = TuneSpec(r=4, epochs=2, batch_size=4, questions=2, base_bits=4, max_bits_cost=1.0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("base")
    return artifacts.external(tiny_llama(folder, **SMALL, dtype="bfloat16"))


@pytest.fixture(scope="module")
def tuned(
    base: Checkpoint, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    return tune(base, dataset, SPEC, tmp_path_factory.mktemp("tuned"), Silent(), seed=0)


def test_linear_layers_take_a_quarter_and_the_rest_stays(base: Checkpoint) -> None:
    model = load_model(base.path)
    sizes = sum(each.numel() * each.element_size() for each in model.parameters())
    rounded = round_linears(model)
    assert len(rounded.modules) == 2 * 7
    assert not any("lm_head" in name or "embed" in name for name in rounded.modules)
    assert model.lm_head.weight.dtype == model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert rounded.linear_bytes + rounded.other_bytes == sizes
    assert 0.25 < rounded.linear_4bit_bytes / rounded.linear_bytes < 0.28


def test_the_rounded_base_on_disk_is_the_one_that_was_trained_on(
    base: Checkpoint, tmp_path: Path
) -> None:
    from bitsandbytes.functional import dequantize_4bit

    model = load_model(base.path)
    rounded = round_linears(model)
    write_rounded(base.path, rounded.modules, tmp_path / "out")
    on_disk, own = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(base.path / "model.safetensors"),
    )
    for name, tensor in own.items():
        if name.removesuffix(".weight") in rounded.modules:
            weight = model.get_submodule(name.removesuffix(".weight")).weight
            assert torch.equal(on_disk[name], dequantize_4bit(weight.data, weight.quant_state))
            assert not torch.equal(on_disk[name], tensor)
        else:
            assert torch.equal(on_disk[name], tensor)
    assert load_tokenizer(tmp_path / "out").get_vocab() == load_tokenizer(base.path).get_vocab()


def test_both_merges_are_measured_and_the_better_one_ships(
    base: Checkpoint, dataset: Dataset, tuned: Checkpoint, tmp_path: Path
) -> None:
    four = TuneFigures.read(tuned.record.figures).four_bits
    assert four
    folders = {SIXTEEN: base.path, FOUR: tmp_path / "rounded"}
    write_rounded(base.path, round_linears(load_model(base.path)).modules, folders[FOUR])
    tokenizer = load_tokenizer(base.path)
    held_out, _ = conversations(tokenizer, dataset.held_out()[:2], SPEC.max_tokens)
    losses = {}
    for name, folder in folders.items():
        made = merge(artifacts.external(folder), tuned.path / "adapter", tmp_path / name, Silent())
        losses[name] = loss_per_token(load_model(made.path), held_out)
    assert four.merged_loss == pytest.approx(losses[SIXTEEN], abs=1e-4)
    assert four.merged_4bit_loss == pytest.approx(losses[FOUR], abs=1e-4)
    assert four.merged_onto == min(losses, key=lambda name: losses[name])
    kept = (tmp_path / four.merged_onto / "model.safetensors").read_bytes()
    assert (tuned.path / "model.safetensors").read_bytes() == kept


def test_the_input_is_the_base_of_sixteen_bits(base: Checkpoint, tuned: Checkpoint) -> None:
    assert tuned.record.inputs["base"] == base.digest
    assert "bitsandbytes" in tuned.record.tools
    assert not (tuned.path / "resume").exists()
    with safe_open(tuned.path / "model.safetensors", "pt") as tensors:
        kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    assert kinds <= {"BF16", "F32"}


def test_what_is_kept_for_going_on_holds_no_rounded_weights(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    class Stop(Exception):  # noqa: N818 - no error
        pass

    class Stopper(Recorder):
        def step(
            self, name: str, done: float, total: float, unit: str = "", figures: str = ""
        ) -> None:
            if name == "tune" and done == 3:
                raise Stop

    Course.__init__.__kwdefaults__["save_every_s"] = 0.0
    try:
        with pytest.raises(Stop):
            tune(base, dataset, SPEC, tmp_path / "out", Stopper(), seed=0)
        state = load_file(tmp_path / "out" / "resume" / "tune" / "state.safetensors")
        assert all("lora_" in name for name in state if name.startswith("parameter."))
        assert all(tensor.is_floating_point() for tensor in state.values())
        report = Recorder()
        again = tune(base, dataset, SPEC, tmp_path / "out", report, seed=0)
    finally:
        Course.__init__.__kwdefaults__["save_every_s"] = 15.0
    assert "tune: goes on after step 2 of 4" in report.notes
    whole = tune(base, dataset, SPEC, tmp_path / "whole", Silent(), seed=0)
    assert again.digest == whole.digest


def test_four_bits_that_cost_too_much_are_refused_with_the_figure(
    base: Checkpoint, dataset: Dataset, tmp_path: Path
) -> None:
    # Rounding moves a model out of a minimum; one that learned nothing may even gain.
    spec = SPEC.model_copy(update={"epochs": 8, "learning_rate": 1e-2, "base_bits": 16})
    learned = tune(base, dataset, spec, tmp_path / "learned", Silent(), seed=0)
    report = Recorder()
    spec = SPEC.model_copy(update={"max_bits_cost": 0.0})
    with pytest.raises(GateError) as refused:
        tune(learned, dataset, spec, tmp_path / "out", report, seed=0)
    assert refused.value.message.startswith("tune: base_bits: four bits cost this base 0.")
    assert refused.value.message.endswith(", 0 are allowed")
    assert "tune" not in report.bars


def test_a_cost_within_the_limit_is_allowed() -> None:
    check_cost(1.0, 1.1, 0.2)
    check_cost(1.0, 0.9, 0.0)
    told = r"cost this base 0\.820 nats .* \(4\.629 → 5\.449\), 0\.1"
    with pytest.raises(GateError, match=told):
        check_cost(4.629, 5.449, 0.1)


def test_of_two_equal_merges_the_one_of_sixteen_bits_is_kept() -> None:
    rounded = Rounded(modules=(), linear_bytes=200, linear_4bit_bytes=53, other_bytes=100)
    for merged, kept in (((1.0, 1.0), SIXTEEN), ((1.0, 0.9), FOUR), ((0.9, 1.0), SIXTEEN)):
        assert figures_of(rounded, (2.0, 2.1), merged).merged_onto == kept
