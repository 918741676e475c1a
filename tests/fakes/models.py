"""Tiny random models of true structure, made in about a second: GQA, tied and untied heads, biases,
a real BPE tokenizer.

`tiny_llama(folder)` and `tiny_qwen2(folder)` write what `save_pretrained` writes: config.json,
model.safetensors, tokenizer.json, tokenizer_config.json, chat_template.jinja,
generation_config.json. The same arguments give the same bytes.
"""

from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2: padding and beginning, start of a turn, end of a turn."""
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT4O_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SMALL = {"hidden": 64, "intermediate": 64, "layers": 2, "heads": 2, "kv_heads": 1}
"""Shape of a model so small that a training of it takes a second."""
TEXTS = (
    (
        "How hot is too hot? A Raspberry Pi throttles its processor at 80 degrees and stops at "
        "85; a small fan keeps it cool."
    ),
    (
        "The quick brown fox doesn't jump over 12345 lazy dogs, and they're not amused: "
        "we'll see what it's worth in 2026."
    ),
    (
        "def answer(question: str) -> str:\n    if not question:\n\t\treturn 'empty'\n"
        "    return f'{question!r} -> {len(question)}'\n"
    ),
    (
        "for (int i = 0; i < 100; ++i) { total += values[i] * 0x1F; }\r\n\r\n"
        "// half of it   is    space"
    ),
    "树莓派的温度超过八十度时会降频。请检查散热片和风扇，然后重新启动。",
    "Grüße aus Köln! Ça va? Привет, мир. 🙂🍵👩‍💻 ½ × 3 = 1½, ０１２３ and Ⅷ",
)


def tiny_llama(
    folder: Path,
    *,
    hidden: int = 256,
    intermediate: int = 512,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = False,
    split: str = "gpt-2",
    dtype: str = "float32",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a Llama with random weights to `folder` and return it; `config` overrides fields of
    LlamaConfig.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = _shape(hidden, intermediate, layers, heads, kv_heads)
    vocabulary = tiny_tokenizer(folder, split=split)
    settings = {
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-5,
        **shape,
        **_ids(),
        **config,
    }
    return _save(LlamaForCausalLM, LlamaConfig(**settings), folder, dtype, seed)


def tiny_qwen2(
    folder: Path,
    *,
    hidden: int = 256,
    intermediate: int = 512,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = True,
    dtype: str = "float32",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a Qwen2 (biases on q, k and v) with random weights to `folder` and return it."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = _shape(hidden, intermediate, layers, heads, kv_heads)
    vocabulary = tiny_tokenizer(folder, split="qwen2")
    settings = {"vocab_size": vocabulary, "tie_word_embeddings": tied, **shape, **_ids(), **config}
    return _save(Qwen2ForCausalLM, Qwen2Config(**settings), folder, dtype, seed)


def tiny_tokenizer(folder: Path, *, split: str = "gpt-2", vocab_size: int = 512) -> int:
    """Train a byte-level BPE tokenizer with ChatML specials, save it to `folder`, return its size.

    `split` says how text is cut before merging: as `gpt-2`, `smollm`, `qwen2`, `llama-bpe`,
    `smaug-bpe` or `gpt-4o` do it.
    """
    from tokenizers import Tokenizer, decoders, models, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    tokenizer.pre_tokenizer, tokenizer.decoder = _pre_tokenizer(split), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=_alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    begin = {"bos_token": SPECIALS[0]} if split == "llama-bpe" else {}
    if begin:
        tokenizer.post_processor = _begin_with(SPECIALS[0])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[0],
        clean_up_tokenization_spaces=False,
        **begin,
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _shape(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int
) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "initializer_range": 0.04,
    }


def _ids() -> dict[str, int]:
    return {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}


def _save(kind: Any, config: Any, folder: Path, dtype: str, seed: int) -> Path:
    import torch

    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def _pre_tokenizer(split: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    patterns = {
        "qwen2": QWEN2_SPLIT,
        "llama-bpe": LLAMA3_SPLIT,
        "smaug-bpe": LLAMA3_SPLIT,
        "gpt-4o": GPT4O_SPLIT,
    }
    if split in patterns:
        first = pre_tokenizers.Split(Regex(patterns[split]), "isolated")
        return pre_tokenizers.Sequence(
            [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    last = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), last])
        if split == "smollm"
        else last
    )


def _begin_with(token: str) -> Any:
    from tokenizers import processors

    single = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, 0)]
    )
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), single])


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
