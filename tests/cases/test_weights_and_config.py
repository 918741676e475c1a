"""Weights that contradict config.json, and keys that it does not say: transformers' value, or a
refusal.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.families import FAMILIES, tiny_family
from tests.fakes.models import SMALL, tiny_llama, tiny_qwen2
from toolchain.errors import ArtifactError
from toolchain.models.architecture import read_architecture
from toolchain.models.config_defaults import DEFAULTS, LOCAL_THETAS, THETA, THETAS
from toolchain.models.names import HEAD
from toolchain.models.weights import open_weights


def put(folder: Path, **tensors: Any) -> Path:
    """Add tensors to a checkpoint; `None` takes one away."""
    from safetensors.numpy import load_file, save_file

    found = load_file(folder / "model.safetensors") | tensors
    save_file(
        {name: value for name, value in found.items() if value is not None},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def say(folder: Path, **settings: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def understood(folder: Path) -> Any:
    with open_weights(folder) as weights:
        return read_architecture(folder, weights)


def embedding(folder: Path) -> np.ndarray:
    with open_weights(folder) as weights:
        name = "model.embed_tokens.weight"
        return weights.rows(name, 0, weights.tensors[name].rows)


def test_a_head_of_its_own_is_kept_though_the_config_ties_it(tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path, **SMALL)
    put(folder, **{HEAD: embedding(folder) + np.float32(0.01)})
    assert not understood(folder).tied
    assert HEAD in {source.origin for source in understood(folder).tensors}


def test_a_head_that_is_the_embedding_again_is_left_out(tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path, **SMALL)
    put(folder, **{HEAD: embedding(folder)})
    assert understood(folder).tied


def test_a_head_that_llama_cpp_has_no_place_for_is_refused(tmp_path: Path) -> None:
    folder = tiny_family("gemma 2", tmp_path, dtype="float32")
    put(folder, **{HEAD: embedding(folder) * np.float32(2)})
    with pytest.raises(ArtifactError, match=r"`lm_head.weight` differs from the embedding"):
        understood(folder)


def test_a_head_that_is_missing_is_refused(tmp_path: Path) -> None:
    folder = put(tiny_llama(tmp_path, **SMALL), **{HEAD: None})
    with pytest.raises(ArtifactError, match=r"tensor `lm_head.weight` is missing"):
        understood(folder)


def test_a_tensor_that_no_layer_of_the_config_has_is_refused(tmp_path: Path) -> None:
    folder = say(tiny_llama(tmp_path, **SMALL), num_hidden_layers=1)
    with pytest.raises(ArtifactError, match=r"`model.layers.1.\S+` has no place"):
        understood(folder)


@pytest.mark.parametrize(("theta", "fits"), [(10000.0, True), (500000.0, False)])
def test_stored_rotary_frequencies_must_be_those_of_the_config(
    tmp_path: Path, theta: float, fits: bool
) -> None:
    folder = tiny_llama(tmp_path, **SMALL)
    frequencies = (theta ** -(np.arange(0, 32, 2) / 32)).astype(np.float16)
    put(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": frequencies})
    if fits:
        assert understood(folder).tied is False
        return
    with pytest.raises(ArtifactError, match=r"not the frequencies that config.json gives"):
        understood(folder)


def config_class(architecture: str) -> Any:
    import transformers

    name = architecture.removesuffix("ForCausalLM")
    return getattr(transformers, f"{'Gemma3Text' if name == 'Gemma3' else name}Config")


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_defaults_are_those_of_transformers(architecture: str) -> None:
    kind = config_class(architecture)
    theirs = {field.name: field.default for field in fields(kind)}
    ours = {key: value for key, value in DEFAULTS[architecture].items() if key in theirs}
    assert {key: theirs[key] for key in ours} == ours
    # the one key that a class may not have: Gemma's know `hidden_activation` alone
    assert DEFAULTS[architecture].keys() - ours.keys() <= {"hidden_act"}
    theta = kind.default_theta
    theta = theta if isinstance(theta, dict) else {"global": theta, "local": None}
    assert THETAS.get(architecture, THETA) == theta["global"]
    assert LOCAL_THETAS.get(architecture) == theta["local"]


SPARSE = (
    *("rope_parameters", "rope_theta", "rms_norm_eps", "head_dim", "num_key_value_heads"),
    *("max_position_embeddings", "tie_word_embeddings", "hidden_act", "hidden_activation"),
    *("sliding_window", "layer_types", "no_rope_layers", "attention_bias", "mlp_bias"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
    *("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"),
    *("original_max_position_embeddings", "use_sliding_window", "no_rope_layer_interval"),
)
"""Keys that a config may leave out."""


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_key_that_is_not_said_is_what_transformers_takes(name: str, tmp_path: Path) -> None:
    folder = tiny_family(name, tmp_path)
    full = json.loads((folder / "config.json").read_text())
    for key in (key for key in SPARSE if key in full):
        sparse = {name: value for name, value in full.items() if name != key}
        completed = config_class(full["architectures"][0])(**sparse).to_dict()
        completed["architectures"] = full["architectures"]
        results = []
        for config in (sparse, completed):
            (folder / "config.json").write_text(json.dumps(config))
            try:
                model = understood(folder)
                # llama.cpp takes hidden ÷ heads where no length of a head is written
                lengths = [
                    f"{model.family.name}.attention.{part}_length" for part in ("key", "value")
                ]
                metadata = dict.fromkeys(lengths, model.sizes["head_dim"]) | model.metadata
                results.append((metadata, model.sizes, model.tied))
            except ArtifactError as error:
                results.append(error.message.split("`")[0])
        assert results[0] == results[1], key
