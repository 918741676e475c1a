"""The embedder: a BERT checkpoint as a GGUF file, with which llama.cpp computes sentence vectors.

The rule to keep: from the file llama.cpp computes the tokens and vectors of sentence-transformers.
What it computes in another way is refused by name: another activation, another normalizer, a
pooling that it does not have.

Names of tensors and metadata follow llama.cpp's converter (conversion/bert.py) and its graph
(src/models/bert.cpp).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.files import whole_file
from toolchain.models.architecture import count_in
from toolchain.models.gguf_file import Metadata, Slot, write_header
from toolchain.models.tokenizer import CONTROL, NORMAL
from toolchain.models.weights import Weights, open_weights, read_json
from toolchain.texts import Unreadable, parse_json, text_of
from toolchain.tools import ggml
from toolchain.tools.ggml import Type

TYPES = {"F16": Type.F16, "Q8_0": Type.Q8_0}
"""Types that the matrices may have; vectors and positions are always F32."""
POOLINGS = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2}
"""Key of `1_Pooling/config.json` → `llama_pooling_type`."""
_FILE_TYPES = {"F16": 1, "Q8_0": 7}
"""`general.file_type` (llama.h, `llama_ftype`)."""
_STEPS = ("Transformer", "Pooling", "Normalize")
"""Modules of sentence-transformers that llama.cpp and the board reproduce."""
_SPECIAL = {
    "[CLS]": "tokenizer.ggml.bos_token_id",
    "[SEP]": "tokenizer.ggml.seperator_token_id",
    "[UNK]": "tokenizer.ggml.unknown_token_id",
    "[PAD]": "tokenizer.ggml.padding_token_id",
    "[MASK]": "tokenizer.ggml.mask_token_id",
}
_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
"""Before a token that begins a word, where WordPiece marks those that do not (`##`)."""

_Sides = tuple[str, ...]
"""A shape in names of sizes."""
_TOP: dict[str, tuple[str, _Sides]] = {
    "embeddings.word_embeddings.weight": ("token_embd.weight", ("vocab", "hidden")),
    "embeddings.position_embeddings.weight": ("position_embd.weight", ("context", "hidden")),
    "embeddings.token_type_embeddings.weight": ("token_types.weight", ("types", "hidden")),
    "embeddings.LayerNorm.weight": ("token_embd_norm.weight", ("hidden",)),
    "embeddings.LayerNorm.bias": ("token_embd_norm.bias", ("hidden",)),
}
_LAYER: dict[str, tuple[str, _Sides]] = {
    "attention.self.query": ("attn_q", ("hidden", "hidden")),
    "attention.self.key": ("attn_k", ("hidden", "hidden")),
    "attention.self.value": ("attn_v", ("hidden", "hidden")),
    "attention.output.dense": ("attn_output", ("hidden", "hidden")),
    "attention.output.LayerNorm": ("attn_output_norm", ("hidden",)),
    "intermediate.dense": ("ffn_up", ("intermediate", "hidden")),
    "output.dense": ("ffn_down", ("hidden", "intermediate")),
    "output.LayerNorm": ("layer_output_norm", ("hidden",)),
}
_UNUSED = tuple(
    prefix + name
    for prefix in ("", "bert.")
    for name in ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
)
"""Tensors that a sentence vector does not need."""
_QUANTIZED = ("token_embd.weight",)
_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """A file of an embedder, and what the board must know of it."""

    file: Path
    width: int
    """Numbers in a vector."""
    context: int
    """Tokens of a text that are read, at most; the rest is cut off."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A tensor of the file."""

    origin: str
    shape: tuple[int, ...]
    type: Type


def write_embedder(folder: Path, file: Path, scheme: str = "Q8_0") -> Embedder:
    """Write the GGUF of a sentence-transformers folder, and return what the board must know of it.

    Raises ArtifactError for a model that llama.cpp computes in another way.
    """
    if scheme not in TYPES:
        raise ArtifactError(
            f"embedder: scheme `{scheme}` is not known", hint=f"known: {', '.join(TYPES)}"
        )
    config = read_json(folder / "config.json")
    sizes = sizes_of(config)
    context = min(sizes["context"], _longest_text(folder))

    with open_weights(folder, without=_UNUSED) as weights:
        parts = _parts(folder, weights, sizes, TYPES[scheme])
        metadata = _metadata(folder, config, sizes, _FILE_TYPES[scheme])
        with whole_file(file) as part:
            slots = write_header(
                part, metadata, {name: (each.type, each.shape) for name, each in parts.items()}
            )
            _write_tensors(part, weights, parts, slots)

    return Embedder(
        file=file, width=sizes["hidden"], context=context, size_bytes=file.stat().st_size
    )


def sizes_of(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes in config.json; raise ArtifactError for what llama.cpp's graph lacks."""
    expected: dict[str, tuple[Any, ...]] = {
        "architectures": (["BertModel"],),
        "hidden_act": ("gelu",),
        "position_embedding_type": (None, "absolute"),
    }
    for key, values in expected.items():
        if config.get(key) not in values:
            raise ArtifactError(
                f"config.json: `{key}` is `{config.get(key)}`, an embedder has `{values[-1]}`"
            )
    keys = {
        "vocab": "vocab_size",
        "hidden": "hidden_size",
        "intermediate": "intermediate_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "context": "max_position_embeddings",
        "types": "type_vocab_size",
    }
    return {name: count_in(config, key) for name, key in keys.items()}


def _longest_text(folder: Path) -> int:
    file = folder / "sentence_bert_config.json"
    limit = read_json(file).get("max_seq_length") if file.is_file() else None
    return limit if type(limit) is int and limit > 2 else 2**31


def pooling_of(folder: Path) -> int:
    """Return llama.cpp's number of a pooling; raise ArtifactError for one that it does not have."""
    if (modules := folder / "modules.json").is_file():
        for module in _module_types(text_of(modules.name, modules)):
            if module not in _STEPS:
                raise ArtifactError(f"modules.json: module `{module}` has no place on the board")
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        raise ArtifactError(
            f"{folder.name}: no `1_Pooling/config.json`",
            hint="an embedder is a folder of sentence-transformers",
        )
    chosen = [
        key
        for key, value in read_json(file).items()
        if key.startswith("pooling_mode") and value is True
    ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ArtifactError(f"1_Pooling/config.json: pooling `{', '.join(chosen)}` is not known")
    return POOLINGS[chosen[0]]


def _module_types(text: str) -> Iterator[str]:
    try:
        modules = parse_json(text)
        yield from (str(module["type"]).rpartition(".")[2] for module in modules)
    except (Unreadable, TypeError, KeyError) as error:
        raise ArtifactError("modules.json: not a list of modules") from error


def _parts(folder: Path, weights: Weights, sizes: dict[str, int], kind: Type) -> dict[str, _Part]:
    """Return the tensors of the file, in its order.

    Raises ArtifactError for a tensor that is missing, of another shape, or not part of an embedder.
    """
    named = dict(_TOP)
    for layer in range(sizes["layers"]):
        for module, (name, sides) in _LAYER.items():
            prefix = f"encoder.layer.{layer}.{module}"
            named[f"{prefix}.weight"] = (f"blk.{layer}.{name}.weight", sides)
            named[f"{prefix}.bias"] = (f"blk.{layer}.{name}.bias", sides[:1])

    # Checkpoints of BertModel and of a task model spell the same tensors without and with `bert.`.
    held = {name.removeprefix("bert."): name for name in weights.tensors}
    if extra := sorted(set(held) - set(named)):
        raise ArtifactError(f"{folder.name}: tensor `{extra[0]}` has no place in an embedder")

    parts = {}
    for origin, (name, sides) in named.items():
        shape = tuple(sizes[side] for side in sides)
        if origin not in held:
            raise ArtifactError(f"{folder.name}: tensor `{origin}` is missing")
        if weights.tensors[held[origin]].shape != shape:
            found = weights.tensors[held[origin]].shape
            raise ArtifactError(f"{folder.name}: tensor `{origin}` is {found}, not {shape}")
        matrix = name in _QUANTIZED or (name.startswith("blk.") and len(shape) == 2)
        whole = shape[-1] % ggml.block_size(kind) == 0
        parts[name] = _Part(
            origin=held[origin],
            shape=shape,
            type=(kind if whole else Type.F16) if matrix else Type.F32,
        )
    return parts


def _metadata(
    folder: Path, config: Mapping[str, Any], sizes: dict[str, int], file_type: int
) -> Metadata:
    tokens, kinds, special = _vocabulary(folder, sizes["vocab"])
    return {
        "general.architecture": "bert",
        "general.name": folder.name,
        "general.file_type": file_type,
        "bert.context_length": sizes["context"],
        "bert.embedding_length": sizes["hidden"],
        "bert.feed_forward_length": sizes["intermediate"],
        "bert.block_count": sizes["layers"],
        "bert.attention.head_count": sizes["heads"],
        "bert.attention.layer_norm_epsilon": float(config.get("layer_norm_eps", 1e-12)),
        "bert.attention.causal": False,
        "bert.pooling_type": pooling_of(folder),
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.token_type_count": sizes["types"],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        **special,
    }


def _vocabulary(folder: Path, size: int) -> tuple[list[str], list[int], dict[str, int]]:
    """Return tokens as llama.cpp spells them, their kinds, and the special ones.

    Raises ArtifactError for a tokenizer that llama.cpp does not have.
    """
    tokenizer = read_json(folder / "tokenizer.json")
    model, normalizer = tokenizer.get("model") or {}, tokenizer.get("normalizer") or {}
    if model.get("type", "WordPiece") != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise ArtifactError("tokenizer.json: an embedder's tokenizer is of type `WordPiece`")

    # llama.cpp's WPM tokenizer has these built in (src/llama-vocab.cpp, llm_tokenizer_wpm).
    expected = {
        "type": ("BertNormalizer",),
        "lowercase": (True,),
        "handle_chinese_chars": (True,),
        "strip_accents": (None, True),
    }
    for key, values in expected.items():
        if normalizer.get(key) not in values:
            raise ArtifactError(
                f"tokenizer.json: normalizer: `{key}` is `{normalizer.get(key)}`, "
                f"llama.cpp has `{values[-1]}`"
            )

    by_id = {number: token for token, number in model["vocab"].items()}
    if sorted(by_id) != list(range(size)):
        raise ArtifactError(
            f"tokenizer.json: {len(by_id)} tokens, config.json: `vocab_size` {size}"
        )
    control = {
        row["content"] for row in tokenizer.get("added_tokens") or [] if row.get("special") is True
    }
    missing = [token for token in _SPECIAL if token not in model["vocab"]]
    if missing:
        raise ArtifactError(f"tokenizer.json: token `{missing[0]}` is missing")

    tokens = [by_id[number] for number in range(size)]
    kinds = [CONTROL if token in control else NORMAL for token in tokens]
    spelled = [
        token if kind == CONTROL else token[2:] if token.startswith("##") else _WORD_START + token
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    special = {key: model["vocab"][token] for token, key in _SPECIAL.items()}
    return spelled, kinds, special


def _write_tensors(
    file: Path, weights: Weights, parts: Mapping[str, _Part], slots: Mapping[str, Slot]
) -> None:
    with file.open("r+b") as stream:
        for name, part in parts.items():
            stream.seek(slots[name].offset)
            rows = math.prod(part.shape[:-1])
            for first in range(0, rows, _BLOCK_ROWS):
                block = weights.rows(part.origin, first, min(_BLOCK_ROWS, rows - first))
                try:
                    packed = ggml.pack(part.type, block)
                except ValueError as error:
                    source = weights.tensors[part.origin].file.name
                    raise ArtifactError(f"{source}: tensor `{part.origin}`: {error}") from error
                stream.write(packed.tobytes())
