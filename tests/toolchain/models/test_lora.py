"""LoRA adapters: their change of each row, and the sentence for each one that is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import tiny_llama
from toolchain.errors import ArtifactError
from toolchain.models.lora import CONFIG, WEIGHTS, Merged, check_fits, read_lora
from toolchain.models.weights import open_weights

UP = "model.layers.1.mlp.up_proj.weight"
A, B = (f"base_model.model.model.layers.1.mlp.up_proj.lora_{side}.weight" for side in "AB")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that all tests leave as it is."""
    return tiny_llama(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter for it."""
    return tiny_adapter(tmp_path / "skill", base)


def test_rows_are_base_plus_scaled_product(base: Path, adapter: Path) -> None:
    pair, plain = load_file(adapter / WEIGHTS), load_file(base / "model.safetensors")
    expected = plain[UP] + 2.0 * (pair[B].astype(np.float64) @ pair[A])
    with open_weights(base) as weights:
        merged = Merged(weights, read_lora(adapter))
        np.testing.assert_allclose(merged.rows(UP, 3, 100), expected[3:103], rtol=1e-6)
        np.testing.assert_array_equal(
            merged.rows("model.norm.weight", 0, 1)[0], plain["model.norm.weight"]
        )


def test_rows_do_not_depend_on_how_they_are_grouped(base: Path, adapter: Path) -> None:
    with open_weights(base) as weights:
        merged = Merged(weights, read_lora(adapter))
        rows = [merged.rows(UP, first, 1) for first in range(100)]
        np.testing.assert_array_equal(np.concatenate(rows), merged.rows(UP, 0, 100))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [({}, 2.0), ({"use_rslora": True}, 4.0), ({"alpha_pattern": {"up_proj": 12.0}}, 3.0)],
    ids=["alpha ÷ r", "rank-stabilised", "alpha of its own"],
)
def test_the_scale_is_pefts(
    base: Path, tmp_path: Path, settings: dict[str, Any], scale: float
) -> None:
    assert read_lora(tiny_adapter(tmp_path / "skill", base, **settings)).deltas[UP].scale == scale


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_pefts_own_merge_is_the_same(base: Path, adapter: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    ).merge_and_unload()
    with open_weights(base) as weights:
        merged = Merged(weights, read_lora(adapter))
        for name, parameter in model.named_parameters():
            rows = merged.rows(name, 0, weights.tensors[name].rows).reshape(parameter.shape)
            np.testing.assert_allclose(rows, parameter.detach().numpy(), rtol=0, atol=1e-6)


def settings(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        fields = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(fields | changes))

    return change


def parts(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return rewrite


def cut(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-10])


def one_level_up(folder: Path) -> None:
    inner = folder / "checkpoint-60"
    inner.mkdir()
    (folder / CONFIG).rename(inner / CONFIG)


def test_a_checkpoint_inside_an_adapter_folder_is_named(adapter: Path) -> None:
    one_level_up(adapter)
    with pytest.raises(ArtifactError) as caught:
        read_lora(adapter)
    assert caught.value.hint == 'did you mean "skill/checkpoint-60"?'


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda folder: (folder / CONFIG).unlink(), f"skill: no `{CONFIG}`"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"skill: no `{WEIGHTS}`"),
    "pickle": (
        lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"),
        "skill: `adapter_model.bin` is a pickle, which can run code when it is loaded",
    ),
    "cut": (cut, f"{WEIGHTS}: cut short, "),
    "another kind": (settings(peft_type="IA3"), "skill: adapters of kind `IA3` are not merged"),
    "of MLX": (
        settings(peft_type=None, fine_tune_type="lora"),
        f"skill: {CONFIG}: no `peft_type`: not an adapter of peft's",
    ),
    "dora": (settings(use_dora=True), "skill: an adapter with `use_dora` is not merged"),
    "whole modules": (
        settings(modules_to_save=["lm_head"]),
        "skill: an adapter with `modules_to_save` is not merged",
    ),
    "new tokens": (
        settings(trainable_token_indices=[5]),
        "skill: an adapter with `trainable_token_indices` is not merged",
    ),
    "no alpha": (
        settings(lora_alpha=None),
        f"skill: {CONFIG}: `lora_alpha` is `None`, not a number",
    ),
    "half a pair": (parts(lambda found: found.pop(A)), f"skill: {WEIGHTS}: a LoRA pair is missing"),
    "a norm": (
        parts(
            lambda found: found.update(
                {"base_model.model.model.norm.weight": np.ones(4, np.float32)}
            )
        ),
        "skill: tensor `base_model.model.model.norm.weight` is not LoRA on a linear layer",
    ),
    "ranks": (
        parts(lambda found: found.update({B: np.zeros((512, 3), np.float32)})),
        f"skill: tensor `{B}`: rank 3, but A has rank 4",
    ),
    "NaN": (
        parts(lambda found: found[B].__setitem__((0, 0), np.nan)),
        f"{WEIGHTS}: tensor `{B}`: a weight is NaN or infinite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_adapter_that_would_be_lost_is_refused(adapter: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    spoil(adapter)
    with pytest.raises(ArtifactError) as caught:
        read_lora(adapter)
    assert caught.value.message.startswith(message)


def test_an_adapter_for_another_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    wider = tiny_llama(tmp_path / "wider", intermediate=768)
    shallow = tiny_llama(tmp_path / "shallow", layers=1)
    for other, problem in (
        (
            wider,
            "`model.layers.0.mlp.down_proj.weight` is 256 × 768 in `wider`, "
            "256 × 512 in the adapter",
        ),
        (shallow, "`shallow` has no tensor `model.layers.1.mlp.down_proj.weight`"),
    ):
        with open_weights(other) as weights, pytest.raises(ArtifactError) as caught:
            check_fits(read_lora(adapter), weights, other.name)
        assert caught.value.message == f"adapter skill: made for another base: {problem}"
        assert caught.value.hint == "it was trained on `tiny/base`"
