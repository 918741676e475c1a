"""Adapters whose base was changed before training: peft's value, or a refusal with the remedy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import SMALL, tiny_llama
from toolchain.errors import ArtifactError
from toolchain.models.lora import CONFIG, Merged, open_lora, read_lora
from toolchain.models.weights import open_weights

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
TARGETS = ["q_proj", "down_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "base", **SMALL)


def trained(base: Path, folder: Path, **settings: Any) -> dict[str, np.ndarray]:
    """Write an adapter that moved a fifth of its norm in training; return the weights of the model
    that was trained.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(
        model,
        LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM", **settings),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter) * max(0.02, float(parameter.std()) / 5)
    model.save_pretrained(folder)
    return {
        f"{name}.weight": (layer.base_layer.weight + layer.get_delta_weight("default"))
        .detach()
        .numpy()
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "lora_A")
    }


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa", "use_rslora": True},
        {
            "init_lora_weights": "pissa",
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"down_proj": 3},
        },
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": False},
    ],
)
def test_what_comes_out_is_the_model_that_was_trained(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    expected = trained(base, tmp_path / "skill", **settings)
    with open_weights(base) as weights:
        merged = Merged(weights, open_lora(tmp_path / "skill", weights, "base"))
        for name, weight in expected.items():
            found = merged.rows(name, 0, len(weight))
            assert np.linalg.norm(found - weight) <= 1e-5 * np.linalg.norm(weight)


@pytest.mark.parametrize(
    "kind", ["pissa_niter_4", "corda", "loftq", "lora_ga", "something_of_tomorrow"]
)
def test_a_change_that_cannot_be_made_again_is_refused(
    base: Path, tmp_path: Path, kind: str
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, init_lora_weights=kind)
    with open_weights(base) as weights, pytest.raises(ArtifactError) as refused:
        open_lora(skill, weights, "base")
    assert refused.value.message.startswith(f"skill: `init_lora_weights` is `{kind}`: its base was")
    assert "path_initial_model_for_weight_conversion" in refused.value.hint


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_part_of_the_base_is_found_where_the_configuration_hides_it(
    base: Path, tmp_path: Path, kind: str
) -> None:
    trained(base, tmp_path / "skill", init_lora_weights=kind)
    config = json.loads((tmp_path / "skill" / CONFIG).read_text()) | {"init_lora_weights": True}
    (tmp_path / "skill" / CONFIG).write_text(json.dumps(config))
    with open_weights(base) as weights, pytest.raises(ArtifactError) as refused:
        open_lora(tmp_path / "skill", weights, "base")
    assert refused.value.message.startswith("adapter skill: holds a part of its base")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [3]),
        ("layer_replication", [[0, 2]]),
        ("fan_in_fan_out", True),
        ("target_parameters", ["mlp.experts"]),
        ("megatron_config", {"a": 1}),
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 1}),
        ("kasa_config", {"beta": 1}),
        ("velora_config", {"num_groups": 2}),
        ("monteclora_config", {"n": 1}),
        ("ensure_weight_tying", True),
        ("a_field_of_tomorrow", 7),
    ],
)
def test_a_field_that_a_merge_would_lose_is_refused_by_name(
    base: Path, tmp_path: Path, field: str, value: Any
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, **{field: value})
    with open_weights(base) as weights, pytest.raises(ArtifactError) as refused:
        open_lora(skill, weights, "base")
    assert refused.value.message == f"skill: an adapter with `{field}` is not merged"


def test_every_field_of_the_installed_peft_is_known(base: Path, tmp_path: Path) -> None:
    from dataclasses import fields

    from peft import LoraConfig

    plain = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]).to_dict()
    known = {field.name for field in fields(LoraConfig)} - {"runtime_config"}
    assert known <= plain.keys() | {"runtime_config"}
    settings = {key: value for key, value in plain.items() if key not in ("target_modules",)}
    skill = tiny_adapter(tmp_path / "skill", base, modules=["q_proj"], **settings | {"r": 4})
    with open_weights(base) as weights:
        assert len(open_lora(skill, weights, "base").deltas) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["v_proj"]},
        {"exclude_modules": ["q_proj"]},
        {"layers_to_transform": [0]},
        {"target_modules": ".*v_proj"},
    ],
)
def test_weights_that_peft_would_leave_out_are_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, modules=["q_proj"], **settings)
    with open_weights(base) as weights, pytest.raises(ArtifactError, match="does not name `model"):
        open_lora(skill, weights, "base")


def test_all_linear_leaves_the_output_layer_out_as_peft_does(base: Path, tmp_path: Path) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, modules=["lm_head"], target_modules="all-linear")
    with open_weights(base) as weights, pytest.raises(ArtifactError) as refused:
        open_lora(skill, weights, "base")
    assert "`target_modules` does not name `lm_head`" in refused.value.message


@pytest.mark.parametrize("targets", [None, [], ""], ids=["null", "empty list", "empty"])
def test_modules_that_peft_would_choose_by_itself_are_refused(
    base: Path, tmp_path: Path, targets: object
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, target_modules=targets)
    with pytest.raises(ArtifactError, match=r"`target_modules` names no module$"):
        read_lora(skill)


def test_weights_under_names_that_peft_does_not_load_are_refused(
    base: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    file = tiny_adapter(tmp_path / "skill", base, modules=["q_proj"]) / "adapter_model.safetensors"
    parts = load_file(file)
    save_file({name.removeprefix("base_model.model."): parts[name] for name in parts}, file)
    with pytest.raises(ArtifactError, match=r"does not begin with `base_model\.model\.`"):
        read_lora(file.parent)


BACKTRACKS = "(([a-z._0-9]+)+)+!"
"""An expression that needs years for the name of a module."""


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": BACKTRACKS},
        {"exclude_modules": BACKTRACKS},
        {"rank_pattern": {BACKTRACKS: 4}},
        {"alpha_pattern": {BACKTRACKS: 8}},
        {"layers_to_transform": [0, 1], "layers_pattern": [BACKTRACKS]},
        {"target_modules": ".*.*.*.*.*.*.*.*.*.*.*.*x"},
    ],
)
def test_an_expression_that_backtracks_for_years_is_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, **settings)
    with pytest.raises(ArtifactError, match=r"take longer than 1 s to match$"):
        read_lora(skill)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("target_modules", 5, "`target_modules` is not a list of names"),
        ("target_modules", {"q_proj": 1}, "`target_modules` is not a list of names"),
        ("exclude_modules", [5], "`exclude_modules` is not a list of names"),
        ("layers_pattern", 5, "`layers_pattern` is not a list of names"),
        ("layers_pattern", ["("], "`layers_pattern`: `(` is not a regular expression"),
        ("layers_to_transform", "0", "`layers_to_transform` is not a list of numbers"),
        ("layers_to_transform", [None], "`layers_to_transform` is not a list of numbers"),
        ("target_modules", "(", "`target_modules`: `(` is not a regular expression"),
        ("rank_pattern", {"q_proj": "4"}, "`rank_pattern` is not a table of numbers"),
    ],
)
def test_a_field_of_another_form_is_refused_by_name(
    base: Path, tmp_path: Path, field: str, value: Any, problem: str
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, **{field: value})
    with pytest.raises(ArtifactError) as refused:
        read_lora(skill)
    assert refused.value.message == f"skill: {CONFIG}: {problem}"
