"""Models of true shapes with random weights, written tensor by tensor.

For measurements that do not depend on what the weights are.

Shared by the benchmarks; needs neither a network nor the memory of a whole model.
"""

import itertools
import json
import math
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LINEAR = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
QWEN_05B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN_15B = QWEN_05B | {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}
_BLOCK = 1 << 22


def write_qwen2(
    folder: Path, shape: Mapping[str, Any], *, tokens: int = 4096, telling: bool = False
) -> Path:
    """Write a Qwen2 of this shape in BF16, with a byte-level tokenizer of `tokens` tokens.

    With `telling` weights each part moves the logits, so that a wrong computation shows there;
    without it all weights are small.
    """
    folder.mkdir(parents=True)
    _write_tokenizer(folder, tokens)
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "dtype": "bfloat16",
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "bos_token_id": tokens - 3,
        "eos_token_id": tokens - 1,
        "pad_token_id": tokens - 3,
        **shape,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _write_bf16(
        folder / "model.safetensors",
        dict(_tensors(config)),
        config["hidden_size"] ** -0.5 if telling else 0.0,
    )
    return folder


def write_adapter(folder: Path, shape: Mapping[str, Any], *, r: int = 16) -> Path:
    """Write a LoRA adapter on all linear layers of such a model."""
    folder.mkdir(parents=True)
    pairs: dict[str, tuple[int, ...]] = {}
    for name, (rows, *columns) in _tensors(shape):
        if columns and ".layers." in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            pairs |= {
                f"{module}.lora_A.weight": (r, columns[0]),
                f"{module}.lora_B.weight": (rows, r),
            }

    _write_bf16(folder / "adapter_model.safetensors", pairs)
    modules = [name for names in LINEAR.values() for name in names]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": 2 * r,
        "target_modules": modules,
    }
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "model"})
    )
    return folder


def _tensors(shape: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    key = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    rows = {
        "q_proj": hidden,
        "k_proj": key,
        "v_proj": key,
        "o_proj": hidden,
        "gate_proj": inner,
        "up_proj": inner,
        "down_proj": hidden,
    }
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)

    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for part, names in LINEAR.items():
            for name in names:
                yield (
                    f"{at}.{part}.{name}.weight",
                    (rows[name], inner if name == "down_proj" else hidden),
                )
        for name in ("q_proj", "k_proj", "v_proj"):
            yield f"{at}.self_attn.{name}.bias", (rows[name],)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (hidden,)

    yield "model.norm.weight", (hidden,)
    if not shape.get("tie_word_embeddings"):
        yield "lm_head.weight", (shape["vocab_size"], hidden)


def _write_bf16(file: Path, shapes: Mapping[str, tuple[int, ...]], spread: float = 0.0) -> None:
    """Write tensors of normal weights: one random block, from another offset for each tensor.

    With a `spread`, norms are 1.
    """
    weights = np.random.default_rng(0).standard_normal(_BLOCK, np.float32) * np.float32(
        spread or 0.02
    )
    block, ones = (_bf16(values) for values in (weights, np.ones(_BLOCK, np.float32)))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0

    for name, shape in shapes.items():
        first = end
        end = end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [first, end]}

    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for number, (name, shape) in enumerate(shapes.items()):
            left = math.prod(shape)
            at = number * 7919 % _BLOCK
            source = ones if spread and "norm" in name else block
            while left:
                part = source[at : at + left]
                stream.write(part.data)
                left = left - len(part)
                at = 0


def _bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _write_tokenizer(folder: Path, size: int) -> None:
    """Write a byte-level BPE: bytes, combinations of letters in order, and three special tokens.

    It splits text as Qwen's does.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from toolchain.models.tokenizer_kinds import QWEN2

    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = (
        "".join(letters)
        for length in itertools.count(2)
        for letters in itertools.product(string.ascii_lowercase, repeat=length)
    )
    joined = list(itertools.islice(longer, size - len(words) - len(SPECIALS)))
    merges = [(word[:-1], word[-1]) for word in joined]
    tokenizer = Tokenizer(
        models.BPE({word: number for number, word in enumerate([*words, *joined])}, merges)
    )
    first = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    wrapper: Any = PreTrainedTokenizerFast
    wrapped = wrapper(tokenizer_object=tokenizer, eos_token=SPECIALS[2], pad_token=SPECIALS[0])
    wrapped.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    )
    wrapped.save_pretrained(folder)
