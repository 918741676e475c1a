"""Families of models as data: their tensors' names and shapes, their metadata, and what makes them differ.

A checkpoint is taken only if its config and tensors are exactly those of a known family; nothing is guessed. Names and keys follow
llama.cpp's own converter (conversion/llama.py, conversion/qwen.py and gguf-py/gguf/tensor_mapping.py).
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.weights import Weights, read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Metadata = dict[str, Any]
"""GGUF metadata: str, bool, int (u32), float (f32), lists of str and of int (i32)."""

_TOP = {
    "model.embed_tokens.weight": ("token_embd.weight", ("vocab", "hidden")),
    "model.norm.weight": ("output_norm.weight", ("hidden",)),
    "lm_head.weight": ("output.weight", ("vocab", "hidden")),
}
_LAYER = {
    "input_layernorm": ("attn_norm", ("hidden",)),
    "self_attn.q_proj": ("attn_q", ("query", "hidden")),
    "self_attn.k_proj": ("attn_k", ("key", "hidden")),
    "self_attn.v_proj": ("attn_v", ("key", "hidden")),
    "self_attn.o_proj": ("attn_output", ("hidden", "query")),
    "post_attention_layernorm": ("ffn_norm", ("hidden",)),
    "mlp.gate_proj": ("ffn_gate", ("intermediate", "hidden")),
    "mlp.up_proj": ("ffn_up", ("intermediate", "hidden")),
    "mlp.down_proj": ("ffn_down", ("hidden", "intermediate")),
}
"""Module in a layer → its GGUF name and the shape of its weight."""
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_IGNORED = ".rotary_emb.inv_freq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What tells one family from the others."""

    name: str
    """`general.architecture`."""
    biases: tuple[str, ...] = ()
    """Modules that always have a bias."""
    optional_biases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Modules that have a bias where this key of config.json is true."""
    adjacent_pairs: bool = False
    """Rotary pairs stand side by side in GGUF, half a head apart in Hugging Face: rows of q and k are regrouped."""
    says_vocabulary: bool = False
    """Whether `vocab_size` and `rope.dimension_count` are written."""


FAMILIES = {
    "LlamaForCausalLM": Family(
        name="llama", optional_biases={"attention_bias": _ATTENTION, "mlp_bias": _MLP}, adjacent_pairs=True, says_vocabulary=True
    ),
    "Qwen2ForCausalLM": Family(name="qwen2", biases=_ATTENTION[:3]),
}
"""Families by the architecture that config.json names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One tensor of the model file, and where its rows come from."""

    name: str
    shape: tuple[int, ...]
    origin: str = ""
    """Tensor of the checkpoint; empty where `values` are given."""
    heads: int = 0
    """Heads whose rows are regrouped; 0: rows stay as they are."""
    values: "NDArray[np.float32] | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A checkpoint understood."""

    family: Family
    sizes: dict[str, int]
    """vocab, hidden, intermediate, query, key, heads, kv_heads, head_dim, layers, context."""
    tied: bool
    metadata: Metadata
    tensors: tuple[Source, ...]
    """In llama.cpp's file order: what belongs to no layer, then layer by layer, by name (`weight_name_comparer`)."""

    @property
    def parameters(self) -> int:
        """Weights in the file, computed tensors left out."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors if tensor.origin)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of an f16 key-value cache for one token."""
        return 2 * 2 * self.sizes["layers"] * self.sizes["key"]


def understand(folder: Path, weights: Weights) -> Model:
    """Match a checkpoint with its family; raise ArtifactError for what differs."""
    config = read_json(folder / "config.json")
    family = _family(config)
    _check_features(config)
    sizes = _sizes(config)
    tied = bool(config.get("tie_word_embeddings", False))
    tensors = _sources(family, config, sizes, tied)
    _compare(folder, {source.origin: source.shape for source in tensors}, weights, tied)
    rope, factors = _rope(config, sizes)
    if factors is not None:
        tensors.append(Source(name="rope_freqs.weight", shape=factors.shape, values=factors))
    metadata = {f"{family.name}.{key}": value for key, value in (_metadata(family, config, sizes) | rope).items()}
    return Model(family=family, sizes=sizes, tied=tied, metadata=metadata, tensors=tuple(sorted(tensors, key=_file_order)))


def _family(config: dict[str, Any]) -> Family:
    names = config.get("architectures") or ["none"]
    if names[0] not in FAMILIES:
        raise ArtifactError(f"config.json: architecture `{names[0]}` is not known", hint=f"known: {', '.join(FAMILIES)}")
    return FAMILIES[names[0]]


def _check_features(config: dict[str, Any]) -> None:
    wrong = {
        "quantization_config": bool(config.get("quantization_config")),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "partial_rotary_factor": (config.get("partial_rotary_factor") or 1.0) != 1.0,
    }
    for key, differs in wrong.items():
        if differs:
            raise ArtifactError(f"config.json: `{key}` is `{str(config[key])[:60]}`, which has no place in the model file")


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    head_dim = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    return {
        "vocab": _number(config, "vocab_size"), "hidden": hidden, "intermediate": _number(config, "intermediate_size"),
        "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "query": heads * head_dim, "key": kv_heads * head_dim,
        "layers": _number(config, "num_hidden_layers"), "context": _number(config, "max_position_embeddings"),
    }  # fmt: skip


def _number(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise ArtifactError(f"config.json: `{key}` is `{value}`, not a count")
    return value


def _sources(family: Family, config: dict[str, Any], sizes: dict[str, int], tied: bool) -> list[Source]:
    biased = set(family.biases).union(*(modules for key, modules in family.optional_biases.items() if config.get(key)))
    sources = [
        Source(name=name, shape=tuple(sizes[size] for size in shape), origin=origin)
        for origin, (name, shape) in _TOP.items()
        if not (tied and origin == "lm_head.weight")
    ]
    for layer in range(sizes["layers"]):
        for module, (name, named_shape) in _LAYER.items():
            shape = tuple(sizes[size] for size in named_shape)
            heads = {"attn_q": sizes["heads"], "attn_k": sizes["kv_heads"]}.get(name, 0) if family.adjacent_pairs else 0
            for part in ("weight", "bias") if module in biased else ("weight",):
                part_shape = shape if part == "weight" else shape[:1]
                origin = f"model.layers.{layer}.{module}.{part}"
                sources.append(Source(name=f"blk.{layer}.{name}.{part}", shape=part_shape, origin=origin, heads=heads))
    return sources


def _compare(folder: Path, expected: dict[str, tuple[int, ...]], weights: Weights, tied: bool) -> None:
    for name, shape in expected.items():
        tensor = weights.tensors.get(name)
        if tensor is None:
            raise ArtifactError(f"{folder.name}: tensor `{name}` is missing")
        if tensor.shape != shape:
            problem = f"shape {list(tensor.shape)}, config.json asks for {list(shape)}"
            raise ArtifactError(f"{tensor.file.name}: tensor `{name}`: {problem}")
    for name, tensor in weights.tensors.items():
        if name not in expected and not name.endswith(_IGNORED) and not (tied and name == "lm_head.weight"):
            raise ArtifactError(f"{tensor.file.name}: tensor `{name}` has no place in the model file")


def _metadata(family: Family, config: dict[str, Any], sizes: dict[str, int]) -> Metadata:
    metadata: Metadata = {
        "block_count": sizes["layers"], "context_length": sizes["context"], "embedding_length": sizes["hidden"],
        "feed_forward_length": sizes["intermediate"], "attention.head_count": sizes["heads"],
        "attention.head_count_kv": sizes["kv_heads"],
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
    }  # fmt: skip
    if config.get("head_dim"):
        metadata |= {"attention.key_length": sizes["head_dim"], "attention.value_length": sizes["head_dim"]}
    if family.says_vocabulary:
        metadata |= {"vocab_size": sizes["vocab"], "rope.dimension_count": sizes["head_dim"]}
    return metadata


def _rope(config: dict[str, Any], sizes: dict[str, int]) -> "tuple[Metadata, NDArray[np.float32] | None]":
    """Return the metadata of the rotary embedding, and its factor for each pair where it scales pairs differently."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    metadata: Metadata = {"rope.freq_base": base}
    match settings.get("rope_type") or settings.get("type") or "default":
        case "default":
            return metadata, None
        case "linear":
            return metadata | {"rope.scaling.type": "linear", "rope.scaling.factor": _setting(settings, "factor")}, None
        case "llama3":
            return metadata, _llama3_factors(settings, base, sizes["head_dim"])
        case other:
            raise ArtifactError(f"config.json: rope type `{other}` is not known", hint="known: default, linear, llama3")


def _llama3_factors(settings: dict[str, Any], base: float, head_dim: int) -> "NDArray[np.float32]":
    """Return by what each pair's frequency is divided (`_compute_llama3_parameters`, transformers modeling_rope_utils.py)."""
    import numpy as np

    factor, low, high = (_setting(settings, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = _setting(settings, "original_max_position_embeddings")
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (context / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelengths < context / high, 1, np.where(wavelengths > context / low, factor, between))
    return np.ascontiguousarray(factors, dtype=np.float32)


def _setting(settings: dict[str, Any], key: str) -> float:
    value = settings.get(key)
    if not isinstance(value, int | float) or value <= 0:
        raise ArtifactError(f"config.json: rope setting `{key}` is `{value}`, not a positive number")
    return float(value)


def _file_order(source: Source) -> tuple[int, str]:
    parts = source.name.split(".")
    return (int(parts[1]) if parts[0] == "blk" else -1), source.name
