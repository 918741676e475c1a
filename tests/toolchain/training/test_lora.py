"""LoRA by default: all linear layers of any family, at a rate that teaches, without dropout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.families import tiny_family
from toolchain.errors import ConfigError
from toolchain.models.checkpoints import load_model
from toolchain.recipe import LoraSpec, TuneSpec
from toolchain.training.lora import with_lora

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
FOUR = {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def adapted(model: Any) -> set[str]:
    """Return the last names of the modules that have an adapter."""
    return {name.split(".")[-1] for name, each in model.named_modules() if hasattr(each, "lora_A")}


@pytest.mark.parametrize(
    ("family", "names"),
    [("qwen3", SEVEN), ("gemma 3", SEVEN), ("phi-3", FOUR)],
    ids=["plain", "with norms", "joined"],
)
def test_every_linear_layer_of_a_decoder_is_adapted_and_no_other(
    family: str, names: set[str], tmp_path: Path
) -> None:
    model = load_model(tiny_family(family, tmp_path / "model"))
    linear = {
        name.split(".")[-1] for name, each in model.named_modules() if type(each) is torch.nn.Linear
    }
    lora = with_lora(model, LoraSpec(), 0, stage="tune")
    assert adapted(lora) == names == linear - {"lm_head"}
    assert lora.peft_config["default"].target_modules == names


def test_the_other_defaults_are_what_was_measured() -> None:
    spec = TuneSpec()
    assert (spec.learning_rate, spec.dropout) == (1e-3, 0.0)


def test_names_that_no_module_has_are_refused(tmp_path: Path) -> None:
    model = load_model(tiny_family("qwen3", tmp_path / "model"))
    with pytest.raises(ConfigError, match=r"^align: target_modules: none of c_attn is in the"):
        with_lora(model, LoraSpec(target_modules=("c_attn",)), 0, stage="align")
