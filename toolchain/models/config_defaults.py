"""Defaults of config.json's keys: those of the family's own configuration class in transformers.

Kept as data, because importing those classes imports torch (11 s) and quantizing works without the
`train` extra.
A test compares every value with the classes of the installed transformers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.names import CONFIG
from toolchain.models.vision import language_config
from toolchain.models.weights import read_json

_COMMON: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
_BIASES = {"attention_bias": False, "mlp_bias": False}
_QWEN = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "use_sliding_window": False,
}
_GEMMA = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**_COMMON, **_BIASES, "head_dim": None},
    "MistralForCausalLM": {
        **_COMMON,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "head_dim": None,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "SmolLM3ForCausalLM": {
        **_COMMON,
        **_BIASES,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "sliding_window": None,
        "use_sliding_window": False,
        "no_rope_layer_interval": 4,
    },
    "Qwen2ForCausalLM": {**_COMMON, **_QWEN},
    "Qwen3ForCausalLM": {**_COMMON, **_QWEN, "head_dim": 128, "attention_bias": False},
    "Gemma2ForCausalLM": {
        **_COMMON,
        **_GEMMA,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "Gemma3ForCausalLM": {
        **_COMMON,
        **_GEMMA,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "Phi3ForCausalLM": {
        **_COMMON,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    "GraniteForCausalLM": {
        **_COMMON,
        **_BIASES,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
}
"""By architecture: keys that a model file depends on."""
THETAS = {"SmolLM3ForCausalLM": 2e6, "Gemma3ForCausalLM": 1e6}
"""`rope_theta` of the families for which it is not `THETA`."""
THETA = 10000.0
LOCAL_THETAS = {"Gemma3ForCausalLM": 10000.0}
"""`rope_theta` of layers that see a window only."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a model folder, completed with the defaults of its architecture.

    Of a model that sees, it is that of its language model.
    """
    config = language_config(read_json(folder / CONFIG))
    named = config.get("architectures") or ["none"]
    if not isinstance(named, list):
        raise ArtifactError(f"config.json: `architectures` is `{named}`, not a list of names")

    architecture = str(named[0])
    complete = {**DEFAULTS.get(architecture, {}), **config}
    if "Gemma" in architecture and architecture in DEFAULTS:
        # its classes know `hidden_activation` alone
        complete["hidden_act"] = complete["hidden_activation"]
    return complete | _lists(architecture, complete)


def _lists(architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lists by layer that a class makes where they are not given."""
    layers = config.get("num_hidden_layers")
    if type(layers) is not int or not 0 < layers < 10_000:
        return {}
    if architecture == "SmolLM3ForCausalLM" and config.get("no_rope_layers") is None:
        every = config["no_rope_layer_interval"]
        return {"no_rope_layers": [int((layer + 1) % every != 0) for layer in range(layers)]}
    if architecture == "Gemma3ForCausalLM" and config.get("layer_types") is None:
        every = config.get("sliding_window_pattern", 6)
        kinds = ("full_attention", "sliding_attention")
        return {"layer_types": [kinds[bool((layer + 1) % every)] for layer in range(layers)]}
    return {}
