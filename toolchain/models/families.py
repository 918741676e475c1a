"""Families of models as data: tensor names and shapes, metadata, and how the families differ.

A checkpoint is taken only if its config and tensors are exactly those of a known family
(`architecture`). Names, keys and flags follow llama.cpp's own converter (conversion/*.py,
gguf-py/gguf/tensor_mapping.py) and its graphs (src/models/*.cpp).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Modules = Mapping[str, tuple[str, tuple[str, ...]]]
"""Module in a layer → its GGUF name and the shape of its weight, in names of sizes."""

TOP: Modules = {
    "model.embed_tokens.weight": ("token_embd.weight", ("vocab", "hidden")),
    "model.norm.weight": ("output_norm.weight", ("hidden",)),
    "lm_head.weight": ("output.weight", ("vocab", "hidden")),
}
"""Tensors that belong to no layer."""
_ATTENTION: Modules = {
    "self_attn.q_proj": ("attn_q", ("query", "hidden")),
    "self_attn.k_proj": ("attn_k", ("key", "hidden")),
    "self_attn.v_proj": ("attn_v", ("key", "hidden")),
    "self_attn.o_proj": ("attn_output", ("hidden", "query")),
}
_MLP: Modules = {
    "mlp.gate_proj": ("ffn_gate", ("intermediate", "hidden")),
    "mlp.up_proj": ("ffn_up", ("intermediate", "hidden")),
    "mlp.down_proj": ("ffn_down", ("hidden", "intermediate")),
}
_NORMS: Modules = {
    "input_layernorm": ("attn_norm", ("hidden",)),
    "post_attention_layernorm": ("ffn_norm", ("hidden",)),
}
_FOUR_NORMS: Modules = {
    "input_layernorm": ("attn_norm", ("hidden",)),
    "post_attention_layernorm": ("post_attention_norm", ("hidden",)),
    "pre_feedforward_layernorm": ("ffn_norm", ("hidden",)),
    "post_feedforward_layernorm": ("post_ffw_norm", ("hidden",)),
}
_HEAD_NORMS: Modules = {
    "self_attn.q_norm": ("attn_q_norm", ("head_dim",)),
    "self_attn.k_norm": ("attn_k_norm", ("head_dim",)),
}
_FUSED: Modules = {
    "self_attn.qkv_proj": ("attn_qkv", ("query_key_value", "hidden")),
    "self_attn.o_proj": ("attn_output", ("hidden", "query")),
    "mlp.gate_up_proj": ("ffn_up", ("gate_up", "hidden")),
    "mlp.down_proj": ("ffn_down", ("hidden", "intermediate")),
}
_PLAIN: Modules = {**_NORMS, **_ATTENTION, **_MLP}
_BIASES = {"attention_bias": tuple(_ATTENTION), "mlp_bias": tuple(_MLP)}
_FULL = {"layer_types": (1, "full_attention", "full_attention")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family of models: how it differs from the others."""

    name: str
    """`general.architecture`."""
    modules: Modules = field(default_factory=lambda: _PLAIN)
    biases: tuple[str, ...] = ()
    """Modules that always have a bias."""
    optional_biases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules that have a bias where this key of config.json is true."""
    adjacent_pairs: bool = False
    """Rows of q and k are regrouped: GGUF has rotary pairs adjacent, HF half a head apart."""
    norm_offset: float = 0.0
    """Added to every norm: some families store the difference from 1."""
    always_tied: bool = False
    """llama.cpp's graph always uses the embedding as the head."""
    square_heads: bool = False
    """llama.cpp supports no `head_dim` but hidden ÷ heads."""
    writes_vocabulary: bool = False
    """Whether `vocab_size` and `rope.dimension_count` are written."""
    plain_rope: bool = False
    """The rotary embedding has its defaults and no metadata."""
    original_context: bool = False
    """Whether the context before its extension and the rotary share of a head are written (Phi)."""
    window: str = ""
    """What becomes of `sliding_window`.

    `written`: it is metadata. `limit`: llama.cpp has no window, so the context ends with it.
    """
    activation: str = "silu"
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys of config.json that must have one of these values."""
    periods: Mapping[str, tuple[int, Any, Any]] = field(default_factory=dict)
    """Lists of config.json by layer: (n, usual value, value of every n-th), fixed in llama.cpp."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """GGUF key → key of config.json of an optional number."""
    needed: tuple[str, ...] = ()
    """Keys of `numbers` that must be given, because llama.cpp's default is another."""
    scaled_by_hidden: int = 0
    """Layers of the model size whose `query_pre_attn_scalar` is hidden ÷ heads, else `head_dim`."""


_NO_WINDOW = {"use_sliding_window": (None, False)}
_LLAMA = Family(name="llama", optional_biases=_BIASES, adjacent_pairs=True, writes_vocabulary=True)
_GEMMA_FIXED = {"use_bidirectional_attention": (None, False), "attention_bias": (None, False)}

FAMILIES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": Family(
        name="llama", adjacent_pairs=True, writes_vocabulary=True, window="limit"
    ),
    "SmolLM3ForCausalLM": Family(
        name="smollm3",
        adjacent_pairs=True,
        writes_vocabulary=True,
        fixed=_NO_WINDOW | {"attention_bias": (None, False), "mlp_bias": (None, False)},
        periods=_FULL | {"no_rope_layers": (4, 1, 0)},
    ),
    "Qwen2ForCausalLM": Family(
        name="qwen2", biases=tuple(_ATTENTION)[:3], fixed=_NO_WINDOW, periods=_FULL
    ),
    "Qwen3ForCausalLM": Family(
        name="qwen3",
        modules={**_PLAIN, **_HEAD_NORMS},
        periods=_FULL,
        fixed=_NO_WINDOW | {"attention_bias": (None, False)},
    ),
    "Gemma2ForCausalLM": Family(
        name="gemma2",
        modules={**_FOUR_NORMS, **_ATTENTION, **_MLP},
        norm_offset=1.0,
        always_tied=True,
        plain_rope=True,
        window="written",
        activation="gelu_pytorch_tanh",
        fixed=_GEMMA_FIXED,
        scaled_by_hidden=46,
        periods={"layer_types": (2, "sliding_attention", "full_attention")},
        numbers={
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        needed=("attn_logit_softcapping", "final_logit_softcapping"),
    ),
    "Gemma3ForCausalLM": Family(
        name="gemma3",
        modules={**_FOUR_NORMS, **_ATTENTION, **_MLP, **_HEAD_NORMS},
        norm_offset=1.0,
        window="written",
        activation="gelu_pytorch_tanh",
        fixed=_GEMMA_FIXED | {"attn_logit_softcapping": (None,)},
        scaled_by_hidden=62,
        periods={"layer_types": (6, "sliding_attention", "full_attention")},
        numbers={"final_logit_softcapping": "final_logit_softcapping"},
    ),
    "Phi3ForCausalLM": Family(
        name="phi3",
        modules={**_NORMS, **_FUSED},
        square_heads=True,
        original_context=True,
        window="limit",
        fixed={"attention_bias": (None, False)},
    ),
    "GraniteForCausalLM": Family(
        name="granite",
        optional_biases=_BIASES,
        adjacent_pairs=True,
        writes_vocabulary=True,
        square_heads=True,
        numbers={
            "attention.scale": "attention_multiplier",
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "logit_scale": "logits_scaling",
        },
        needed=("logit_scale",),
    ),
}
"""Families by the architecture in config.json; Llama 2 and 3, SmolLM2, Falcon 3 share the first."""
