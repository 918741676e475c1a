"""A tiny random model of each family's true structure: its own config class, head sizes, norms,
tied or not, and its kind of tokenizer.

`tiny_family(name, folder)` writes what `save_pretrained` writes, in about a second; the same name
gives the same bytes.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fakes.models import CHATML, SPECIALS, TEXTS, tiny_tokenizer

CONTEXT = 256
_BASE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.04,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 256,
    "short_factor": [1.0 + 0.05 * pair for pair in range(12)],
    "long_factor": [2.0 + pair for pair in range(12)],
}
_GEMMA_ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
_GEMMA = {
    "initializer_range": 0.02,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "sliding_window": 64,
    "tie_word_embeddings": True,
}
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama 2": ("Llama", "llama-2", {}),
    "llama 2 with linear scaling": (
        "Llama",
        "llama-2",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama 3.2": (
        "Llama",
        "llama-bpe",
        {"rope_parameters": _LLAMA3, "tie_word_embeddings": True, "head_dim": 64},
    ),
    "smollm2": (
        "Llama",
        "smollm",
        {"tie_word_embeddings": True, "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    "smollm3": (
        "SmolLM3",
        "smaug-bpe",
        {
            "num_hidden_layers": 5,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 2e6},
        },
    ),
    "mistral": ("Mistral", "llama-2", {"head_dim": 64, "sliding_window": None}),
    "qwen2.5": ("Qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": (
        "Qwen3",
        "qwen2",
        {"head_dim": 64, "tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1e6}},
    ),
    "gemma 2": ("Gemma2", "gemma", {**_GEMMA, "hidden_activation": "gelu_pytorch_tanh"}),
    "gemma 3": (
        "Gemma3",
        "gemma",
        {
            **_GEMMA,
            "num_hidden_layers": 7,
            "rope_parameters": _GEMMA_ROPE,
            "hidden_activation": "gelu_pytorch_tanh",
        },
    ),
    "phi-3": ("Phi3", "phi-3", {"rms_norm_eps": 1e-5, "sliding_window": None}),
    "phi-4-mini": (
        "Phi3",
        "gpt-4o",
        {
            "rope_parameters": _LONGROPE,
            "max_position_embeddings": 1024,
            "original_max_position_embeddings": 256,
            "tie_word_embeddings": True,
        },
    ),
    "falcon 3": (
        "Llama",
        "llama-bpe",
        {"head_dim": 64, "rope_parameters": {"rope_theta": 1000042.0}},
    ),
    "granite 3": (
        "Granite",
        "smollm",
        {
            "attention_multiplier": 0.03,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
}
"""Name → family of classes, kind of tokenizer, fields of its config."""


def tiny_family(
    name: str, folder: Path, *, dtype: str = "float16", seed: int = 0, **changes: Any
) -> Path:
    """Write a model of the family with random weights to `folder` and return it; `changes` override
    fields of its config.
    """
    import torch
    import transformers

    family, tokenizer, fields = FAMILIES[name]
    size = TOKENIZERS[tokenizer](folder)
    kind, text = (
        getattr(transformers, f"{family}ForCausalLM"),
        "Gemma3Text" if family == "Gemma3" else family,
    )
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": size}
    settings = getattr(transformers, f"{text}Config")(**{**_BASE, **ids, **fields, **changes})
    torch.manual_seed(seed)
    model = kind(settings)
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if parameter.ndim == 1:
                mean = 0.0 if "norm" not in label or family.startswith("Gemma") else 1.0
                parameter.normal_(mean, 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def sentence_piece(
    folder: Path,
    *,
    style: str = "llama-2",
    vocab_size: int = 600,
    lines: tuple[str, ...] = (),
    more: tuple[str, ...] = (),
) -> int:
    """Write a SentencePiece-style BPE tokenizer to `folder` and return its size: bytes, then merges
    in the order of their scores.

    `style`: `llama-2` puts a space before text, `gemma` does not, `first` only where text begins,
    `phi-3` has tokens that swallow spaces. `lines` are runs of line ends with tokens of their own,
    `more` are its control tokens.
    """
    pieces = [*("<unk>", "<s>", "</s>"), *(f"<0x{byte:02X}>" for byte in range(256))]
    merged = [*lines, *_merged_pieces(vocab_size - len(pieces))]
    letters = {char for text in (*TEXTS, *merged) for char in text.replace(" ", "▁")}
    characters = sorted(letters - ({"\t", "\r"} if lines else {"\n", "\t", "\r"}))
    vocabulary = {
        piece: number
        for number, piece in enumerate(
            (*pieces, *merged, *(c for c in characters if c not in merged))
        )
    }
    merges = [
        [text[:at], text[at:]]
        for text in merged
        for at in range(1, len(text))
        if {text[:at], text[at:]} <= vocabulary.keys()
    ]
    added = [_added(number, text) for number, text in enumerate(pieces[:3])]
    if not more:
        more = ("<|user|>", "<|end|>", "<|endoftext|>") if style == "phi-3" else SPECIALS[1:]
    added += [_added(len(vocabulary) + place, text) for place, text in enumerate(more)]
    if style == "phi-3":
        for token in added:
            token["rstrip"] = token["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    if style == "gemma":
        spaces = _added(len(vocabulary) + len(more), "▁▁▁▁")
        added.append({**spaces, "special": False, "normalized": True})
    _write(folder, _tokenizer_json(style, vocabulary, merges, added))
    return len(vocabulary) + len(more) + (style == "gemma")


def _merged_pieces(count: int) -> list[str]:
    """Return pieces of at least two characters, the best first: what byte-pair training on the
    texts would join.
    """
    words = [list("▁" + word) for text in TEXTS for word in text.split()]
    found: list[str] = []
    while len(found) < count:
        pairs: dict[str, int] = {}
        for word in words:
            for left, right in itertools.pairwise(word):
                pairs[left + right] = pairs.get(left + right, 0) + 1
        best = max(sorted(pairs), key=lambda pair: pairs[pair], default="")
        if not best:
            break
        found.append(best)
        words = [_join(word, best) for word in words]
    return found


def _join(word: list[str], best: str) -> list[str]:
    joined: list[str] = []
    for piece in word:
        joined[-1:] = [best] if joined and joined[-1] + piece == best else [*joined[-1:], piece]
    return joined


def _added(number: int, text: str) -> dict[str, Any]:
    plain = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    return {"id": number, "content": text, **plain}


def _tokenizer_json(
    style: str, vocabulary: dict[str, int], merges: list[list[str]], added: list[dict[str, Any]]
) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    cut = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    normalizer, pre = {"gemma": (replace, cut), "first": (None, space)}.get(style, (prepend, None))
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": begin,
            "pair": [*begin, *begin[1:]],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {**replace, "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _write(folder: Path, tokenizer: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(
        json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8"
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8")


def _byte_level(split: str) -> Callable[[Path], int]:
    return lambda folder: tiny_tokenizer(folder, split=split)


TOKENIZERS: dict[str, Callable[[Path], int]] = {
    **{
        split: _byte_level(split)
        for split in ("smollm", "qwen2", "llama-bpe", "smaug-bpe", "gpt-4o")
    },
    **{
        style: lambda folder, style=style: sentence_piece(folder, style=style)
        for style in ("llama-2", "gemma", "phi-3", "first")
    },
}
