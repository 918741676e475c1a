"""Reads a checkpoint's architecture: family, sizes, metadata, source rows of each file tensor.

config.json is checked against the headers of the weights before a weight is read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.config_defaults import read_config
from toolchain.models.families import FAMILIES, TOP, Family
from toolchain.models.gguf_file import Metadata
from toolchain.models.names import EMBEDDING, HEAD
from toolchain.models.rope import check_frequencies, long_caveat, read_rope
from toolchain.models.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_COUNT = 2**31 - 1
"""Largest count: GGUF keeps counts in 32 bits."""
_IGNORED = ".rotary_emb.inv_freq"
"""Tensors of old checkpoints that transformers computes from config.json: compared, not stored."""
_BLOCK_ROWS = 4096
"""Number of rows of embedding and head that are compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One tensor of the model file and the source of its rows."""

    name: str
    shape: tuple[int, ...]
    origin: str = ""
    """Tensor of the checkpoint; empty if there are `values`."""
    heads: int = 0
    """Number of heads whose rows are regrouped; 0: rows keep their order."""
    offset: float = 0.0
    """Added to every weight."""
    values: "NDArray[np.float32] | None" = None

    @property
    def weights(self) -> int:
        """Number of weights in the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A checkpoint's architecture, as the model file will have it."""

    family: Family
    sizes: dict[str, int]
    """vocab, hidden, intermediate, query, key, heads, kv_heads, head_dim, layers, context, sums."""
    tied: bool
    metadata: Metadata
    tensors: tuple[Source, ...]
    """In llama.cpp's file order (`weight_name_comparer`): those without a layer come first."""
    caveats: tuple[str, ...] = ()
    """Differences of llama.cpp from transformers, a line each."""

    @property
    def parameters(self) -> int:
        """Number of weights in the file, without computed tensors."""
        return sum(tensor.weights for tensor in self.tensors if tensor.origin)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of an f16 key-value cache for one token."""
        return 2 * 2 * self.sizes["layers"] * self.sizes["key"]


def read_architecture(folder: Path, weights: Weights | None) -> Model:
    """Match a checkpoint with its family; without weights only config.json is checked.

    Raises ArtifactError for an unknown family, and for what llama.cpp's graph of it does not have.
    """
    config = read_config(folder)
    family = _family(config)
    sizes = _sizes(family, config)
    if weights is not None:
        _refuse_more_layers_than_tensors(sizes, weights)

    _check_features(family, config, sizes)

    tied = bool(config["tie_word_embeddings"]) and not (weights and has_own_head(weights))
    if tied != bool(config["tie_word_embeddings"]) and family.always_tied:
        raise ArtifactError(
            f"{folder.name}: `{HEAD}` differs from the embedding, "
            f"which has no place in the model file: `{family.name}` ties them"
        )

    tensors = _sources(family, config, sizes, tied)
    if weights is not None:
        _compare(folder, {source.origin: source.shape for source in tensors}, weights, tied)

    rope, factors = read_rope(family, config, sizes)
    if weights is not None:
        check_frequencies(weights, rope, factors, sizes)

    tensors += [
        Source(name=name, shape=values.shape, values=values) for name, values in factors.items()
    ]

    metadata, limit = _metadata(family, config, sizes)
    caveats = (limit, long_caveat(rope, factors))
    return Model(
        family=family,
        sizes=sizes,
        tied=tied,
        tensors=tuple(sorted(tensors, key=_file_order)),
        metadata={f"{family.name}.{key}": value for key, value in (metadata | rope).items()},
        caveats=tuple(caveat for caveat in caveats if caveat),
    )


def sources_of(config: dict[str, Any]) -> tuple[Family, list[Source]]:
    """Return the family that a config.json names, and the file's tensors without computed ones."""
    family = _family(config)
    sizes = _sizes(family, config)
    return family, _sources(family, config, sizes, bool(config["tie_word_embeddings"]))


def _family(config: dict[str, Any]) -> Family:
    names = config.get("architectures") or ["none"]
    if isinstance(config.get("text_config"), dict):
        raise ArtifactError(
            f"config.json: `{names[0]}` is a model of several inputs, with a language model in it",
            hint="give the language model alone: "
            "load it with `AutoModelForCausalLM` and save it with `save_pretrained`",
        )
    if names[0] not in FAMILIES:
        raise ArtifactError(
            f"config.json: architecture `{names[0]}` is not known",
            hint=f"known: {', '.join(FAMILIES)}",
        )
    return FAMILIES[names[0]]


def _sizes(family: Family, config: dict[str, Any]) -> dict[str, int]:
    hidden = count_in(config, "hidden_size")
    intermediate = count_in(config, "intermediate_size")
    heads = count_in(config, "num_attention_heads")
    kv_heads = (
        count_in(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    )
    head_dim = count_in(config, "head_dim") if config.get("head_dim") else hidden // heads

    if family.square_heads and head_dim != hidden // heads:
        raise _no_place(config, "head_dim")

    return {
        "vocab": count_in(config, "vocab_size"),
        "hidden": hidden,
        "intermediate": intermediate,
        "gate_up": 2 * intermediate,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "query": heads * head_dim,
        "key": kv_heads * head_dim,
        "query_key_value": (heads + 2 * kv_heads) * head_dim,
        "rotary": int(_rotary_share(config) * hidden) // heads,
        "layers": count_in(config, "num_hidden_layers"),
        "context": count_in(config, "max_position_embeddings"),
    }


def _refuse_more_layers_than_tensors(sizes: dict[str, int], weights: Weights) -> None:
    """Raise ArtifactError for a number of layers that config.json alone claims."""
    tensors = len(weights.tensors)
    if sizes["layers"] > tensors:
        raise ArtifactError(
            f"config.json: `num_hidden_layers` is `{sizes['layers']}`, "
            f"the weights have {tensors} tensors"
        )


def _rotary_share(config: dict[str, Any]) -> float:
    rope = config.get("rope_parameters") or {}
    return float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)


def count_in(config: Mapping[str, Any], key: str) -> int:
    """Return a count of config.json; raise ArtifactError for what is none."""
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= MAX_COUNT:
        raise ArtifactError(f"config.json: `{key}` is `{str(value)[:40]}`, not a count")
    return value


def _positive(config: dict[str, Any], key: str) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ArtifactError(f"config.json: `{key}` is `{value}`, not a positive number")
    return float(value)


def has_own_head(weights: Weights) -> bool:
    """Return whether a checkpoint has a head that differs from its embedding.

    transformers 5 loads such a head even if `tie_word_embeddings` is true.
    """
    import numpy as np

    head, embedding = (weights.tensors.get(name) for name in (HEAD, EMBEDDING))
    if head is None or embedding is None:
        return False
    if head.shape != embedding.shape:
        return True

    return any(
        not np.array_equal(
            weights.rows(HEAD, first, count), weights.rows(EMBEDDING, first, count), equal_nan=True
        )
        for first in range(0, head.rows, _BLOCK_ROWS)
        for count in [min(_BLOCK_ROWS, head.rows - first)]
    )


def _check_features(family: Family, config: dict[str, Any], sizes: dict[str, int]) -> None:
    """Raise ArtifactError for a feature that llama.cpp's graph of the family does not have."""
    activation = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    scalar = (
        sizes["hidden"] // sizes["heads"]
        if sizes["layers"] == family.scaled_by_hidden
        else sizes["head_dim"]
    )
    wrong = {
        "quantization_config": bool(config.get("quantization_config")),
        activation: config[activation] != family.activation,
        "partial_rotary_factor": _rotary_share(config) != 1.0 and not family.original_context,
        "query_pre_attn_scalar": bool(family.scaled_by_hidden)
        and config.get("query_pre_attn_scalar") != scalar,
        **{key: config.get(key) not in allowed for key, allowed in family.fixed.items()},
        **{
            key: not _has_period(config.get(key), period, sizes["layers"])
            for key, period in family.periods.items()
        },
    }

    for key, differs in wrong.items():
        if differs:
            raise _no_place(config, key)


def _no_place(config: dict[str, Any], key: str) -> ArtifactError:
    return ArtifactError(
        f"config.json: `{key}` is `{str(config.get(key))[:60]}`, "
        "which has no place in the model file"
    )


def _has_period(found: list[Any] | None, period: tuple[int, Any, Any], layers: int) -> bool:
    every, usual, other = period
    return found is None or found == [
        usual if (layer + 1) % every else other for layer in range(layers)
    ]


def _sources(
    family: Family, config: dict[str, Any], sizes: dict[str, int], tied: bool
) -> list[Source]:
    biased = set(family.biases).union(
        *(modules for key, modules in family.optional_biases.items() if config.get(key))
    )
    sources = [
        _source(family, sizes, name, origin, tuple(sizes[size] for size in shape))
        for origin, (name, shape) in TOP.items()
        if not (tied and origin == HEAD)
    ]

    for layer in range(sizes["layers"]):
        for module, (name, named_shape) in family.modules.items():
            shape = tuple(sizes[size] for size in named_shape)
            for part in ("weight", "bias") if module in biased else ("weight",):
                origin = f"model.layers.{layer}.{module}.{part}"
                sources.append(
                    _source(
                        family,
                        sizes,
                        f"blk.{layer}.{name}.{part}",
                        origin,
                        shape if part == "weight" else shape[:1],
                    )
                )

    return sources


def _source(
    family: Family, sizes: dict[str, int], name: str, origin: str, shape: tuple[int, ...]
) -> Source:
    module = name.split(".")[-2]
    heads = (
        {"attn_q": sizes["heads"], "attn_k": sizes["kv_heads"]}.get(module, 0)
        if family.adjacent_pairs
        else 0
    )
    offset = family.norm_offset if module.endswith("_norm") else 0.0
    return Source(name=name, shape=shape, origin=origin, heads=heads, offset=offset)


def _compare(
    folder: Path, expected: dict[str, tuple[int, ...]], weights: Weights, tied: bool
) -> None:
    for name, shape in expected.items():
        tensor = weights.tensors.get(name)
        if tensor is None:
            raise ArtifactError(f"{folder.name}: tensor `{name}` is missing")
        if tensor.shape != shape:
            problem = f"shape {list(tensor.shape)}, config.json asks for {list(shape)}"
            raise ArtifactError(f"{tensor.file.name}: tensor `{name}`: {problem}")
    for name, tensor in weights.tensors.items():
        if name not in expected and not name.endswith(_IGNORED) and not (tied and name == HEAD):
            raise ArtifactError(
                f"{tensor.file.name}: tensor `{name}` has no place in the model file"
            )


def _metadata(
    family: Family, config: dict[str, Any], sizes: dict[str, int]
) -> tuple[Metadata, str]:
    context, window, limit = _context(family, config, sizes)
    metadata: Metadata = {
        "block_count": sizes["layers"],
        "context_length": context,
        "embedding_length": sizes["hidden"],
        "feed_forward_length": sizes["intermediate"],
        "attention.head_count": sizes["heads"],
        "attention.head_count_kv": sizes["kv_heads"],
        "attention.layer_norm_rms_epsilon": _positive(config, "rms_norm_eps"),
        **window,
    }
    if config.get("head_dim") and not family.square_heads:
        metadata |= {
            "attention.key_length": sizes["head_dim"],
            "attention.value_length": sizes["head_dim"],
        }

    if family.writes_vocabulary:
        metadata |= {"vocab_size": sizes["vocab"], "rope.dimension_count": sizes["head_dim"]}

    for key, named in family.numbers.items():
        value = config.get(named)
        if value:
            metadata[key] = float(value)
        elif key in family.needed:
            raise ArtifactError(f"config.json: `{named}` is `{value}`, not a number")

    return metadata, limit


def _context(
    family: Family, config: dict[str, Any], sizes: dict[str, int]
) -> tuple[int, Metadata, str]:
    """Return the largest context, the window's metadata, and why the context is shorter."""
    window = config.get("sliding_window")
    context = sizes["context"]
    if family.window == "written":
        return context, {"attention.sliding_window": count_in(config, "sliding_window")}, ""

    metadata: Metadata = {"attention.sliding_window": 0} if family.original_context else {}
    if family.window == "limit" and window and window < context:
        return (
            window,
            metadata,
            f"llama.cpp has no sliding window for `{family.name}`: "
            f"the context ends with it, at {window} of {context}",
        )

    return context, metadata, ""


def _file_order(source: Source) -> tuple[int, str]:
    parts = source.name.split(".")
    return (int(parts[1]) if parts[0] == "blk" else -1), source.name
