"""LoRA in one function gives what peft's five give, and its gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.models import tiny_llama
from toolchain.models.checkpoints import load_model
from toolchain.recipe import LoraSpec
from toolchain.training import fused_lora
from toolchain.training.fused_lora import adapted, fused
from toolchain.training.lora import with_lora

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden": 64, "layers": 2, "attention_bias": True}
    return tiny_llama(tmp_path_factory.mktemp("model"), **shape)


def adapted_model(folder: Path, **spec: Any) -> Any:
    """Return a model with an adapter that is not zero, as one is that has learned."""
    model = with_lora(load_model(folder), LoraSpec(**spec), 0, stage="tune").get_base_model()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.train()


def gradients(model: Any) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    model.zero_grad()
    states = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    states.square().sum().backward()
    learned = [
        parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad
    ]
    return states.detach(), learned


def test_states_and_gradients_are_those_of_peft(folder: Path) -> None:
    model = adapted_model(folder, dropout=0.0, target_modules=ALL)
    states, wanted = gradients(model)
    with fused(model) as count:
        assert count == 2 * len(ALL)
        again, found = gradients(model)
    torch.testing.assert_close(again, states, rtol=1e-5, atol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_under_autocast_they_are_as_near_as_bfloat16_lets_them(folder: Path) -> None:
    model = adapted_model(folder, dropout=0.0, target_modules=ALL)
    _, exact = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = gradients(model)
        with fused(model):
            _, ours = gradients(model)

    def distance(found: Sequence[torch.Tensor]) -> float:
        pairs = zip(found, exact, strict=True)
        return sum(float((one - other).square().sum()) for one, other in pairs)

    assert distance(ours) <= 1.5 * distance(theirs)


def test_the_layers_are_peft_s_again_afterwards(folder: Path) -> None:
    model = adapted_model(folder, dropout=0.0)
    with fused(model):
        pass
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("spec", [{"dropout": 0.1}], ids=["dropout"])
def test_a_layer_that_does_more_stays_as_it_is(folder: Path, spec: dict[str, Any]) -> None:
    with fused(adapted_model(folder, **spec)) as count:
        assert count == 0


def test_what_is_read_without_gradients_is_not_found_again_where_they_are_needed(
    folder: Path,
) -> None:
    model = adapted_model(folder, dropout=0.0)
    layer = model.base_model.layers[1].self_attn
    states = torch.randn(1, 3, 64, requires_grad=True)
    with fused(model), torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            layer.q_proj(states)
        layer.q_proj(states).sum().backward()
    assert states.grad is not None


def kept_bytes(model: Any) -> int:
    """Return what a pass keeps for its gradient, without the weights."""
    weights = {each.data_ptr() for each in model.parameters()}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            found[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.base_model(input_ids=IDS, use_cache=False).last_hidden_state.sum()
    return sum(found.values())


def test_what_blocks_and_norms_give_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted_model(folder, dropout=0.0, target_modules=ALL)
    layers, width = model.config.num_hidden_layers, model.config.hidden_size

    def kept() -> float:
        with fused(model):
            return kept_bytes(model) / (IDS.numel() * 4 * layers)

    least = kept()
    monkeypatch.setattr(fused_lora, "is_norm", lambda _: False)
    without_norms = kept()
    monkeypatch.setattr(fused_lora, "is_gated", lambda _: False)
    # Two norms a layer, but for the first one: nothing learns before it. Of a block silu(gate) and
    # the product.
    assert without_norms - least == pytest.approx((2 - 1 / layers) * width, rel=0.05)
    assert kept() - without_norms == pytest.approx(2 * model.config.intermediate_size, rel=0.01)


def test_steps_in_turn_have_gradients_of_their_own(folder: Path) -> None:
    """What is made again must be of this step, whatever stands at the same addresses."""
    model = adapted_model(folder, dropout=0.0, target_modules=ALL)
    batches = [torch.tensor([[n + 5, n + 6, n + 7, n + 8]]) for n in range(6)]

    def step(ids: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        model.base_model(input_ids=ids, use_cache=False).last_hidden_state.square().sum().backward()
        return [each.grad.clone() for each in model.parameters() if each.requires_grad]

    wanted = [step(ids) for ids in batches]
    with fused(model):
        found = [step(ids) for ids in batches]
    for one, other in zip(found, wanted, strict=True):
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_model_without_an_adapter_has_none(folder: Path) -> None:
    assert not adapted(load_model(folder))
    assert adapted(adapted_model(folder))
