"""Model files of the shapes that boards run, with random weights.

They are as fast as trained ones, and their answers are noise.

Two things make the noise strict, so that one differing bit shows within a few tokens. The four-bit
values are drawn from 1 to 15: from 0 to 15 their mean is not zero, which makes every row nearly the
same. The last norm is ±1: a tied head would else name the token it was given. A file is written
once and kept in build/.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "build" / "models"
BLOCK = 32
"""Number of weights that share a scale in Q4_0 and Q8_0."""
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTROL, NORMAL = 3, 1
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of a llama-like model with a tied head."""

    name: str
    width: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int


SMOLLM2_135M = Shape(
    name="SmolLM2-135M", width=576, layers=30, inner=1536, heads=9, kv_heads=3, vocabulary=49152
)
LLAMA_166M = Shape(
    name="Llama-166M", width=1024, layers=14, inner=2816, heads=16, kv_heads=4, vocabulary=4096
)
QWEN25_05B = Shape(
    name="Qwen2.5-0.5B", width=896, layers=24, inner=4864, heads=14, kv_heads=2, vocabulary=151936
)


def random_gguf(shape: Shape, *, recites: Sequence[int] = (), scheme: str = "Q4_0") -> Path:
    """Return a file of a shape: Q4_0 with a Q8_0 embedding, or all Q8_0.

    With `recites` its answer is these tokens, over and over.
    """
    kind = (
        f"recites-{sha256(repr(list(recites)).encode()).hexdigest()[:8]}" if recites else "random"
    )
    path = FOLDER / f"{shape.name}-{kind}-{scheme}.gguf"
    if not path.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        _write(part, shape, list(recites), scheme)
        part.rename(path)

    return path


def _write(path: Path, shape: Shape, recites: list[int], scheme: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_name(shape.name)
    _header(writer, shape)
    draw = np.random.default_rng(0)
    kinds = {"Q8_0": gguf.GGMLQuantizationType.Q8_0, "Q4_0": gguf.GGMLQuantizationType.Q4_0}

    for name, kind, weights in _tensors(shape, draw, recites, scheme):
        writer.add_tensor(name, weights, raw_dtype=kinds.get(kind))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _header(writer: Any, shape: Shape) -> None:
    tokens, merges = _vocabulary(shape.vocabulary)
    for add, value in (
        (writer.add_context_length, 32768),
        (writer.add_embedding_length, shape.width),
        (writer.add_block_count, shape.layers),
        (writer.add_feed_forward_length, shape.inner),
        (writer.add_head_count, shape.heads),
        (writer.add_head_count_kv, shape.kv_heads),
        (writer.add_rope_dimension_count, shape.width // shape.heads),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_file_type, 2),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "gpt-2"),
        (writer.add_eos_token_id, shape.vocabulary - 1),
        (writer.add_token_list, tokens),
        (
            writer.add_token_types,
            [NORMAL] * (shape.vocabulary - len(SPECIALS)) + [CONTROL] * len(SPECIALS),
        ),
        (writer.add_token_merges, merges),
        (writer.add_chat_template, CHATML),
    ):
        add(value)


def _vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Return the vocabulary and the merges that make it.

    It has the 256 bytes, then pairs and pairs of pairs of them, and the special tokens.
    """
    plain = [
        chr(code)
        for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))
    ]
    tokens = list(plain)
    merges = []
    pairs = ((a, b) for a, b in itertools.product(plain, plain))
    longer = ((a + b, c) for a, b, c in itertools.product(plain, plain, plain))

    for first, second in itertools.chain(pairs, longer):
        if len(tokens) == size - len(SPECIALS):
            break
        tokens.append(first + second)
        merges.append(f"{first} {second}")

    return [*tokens, *SPECIALS], merges


def _tensors(
    shape: Shape, draw: np.random.Generator, recites: list[int], scheme: str
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield name, type and bytes of each tensor; the blocks of a model that recites add nothing."""
    width = shape.width
    kv = shape.width // shape.heads * shape.kv_heads
    quiet = 0.0 if recites else 1.0
    embedding = draw.normal(0, 1, (shape.vocabulary, width)).astype(np.float32)
    yield "token_embd.weight", "Q8_0", _q8_0(embedding)
    yield (
        "output_norm.weight",
        "F32",
        draw.choice([-1.0, 1.0], width).astype(np.float32) if not recites else _ones(width),
    )
    if recites:
        yield "output.weight", "Q8_0", _q8_0(_recital(embedding, recites, draw))

    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", "F32", _ones(width)
        for name, rows, columns, scale in (
            ("attn_q", width, width, 1.0),
            ("attn_k", kv, width, 1.0),
            ("attn_v", kv, width, 1.0),
            ("attn_output", width, width, quiet),
            ("ffn_gate", shape.inner, width, 1.0),
            ("ffn_up", shape.inner, width, 1.0),
            ("ffn_down", width, shape.inner, quiet),
        ):
            if scheme == "Q4_0":
                yield f"blk.{layer}.{name}.weight", scheme, _q4_0(draw, rows, columns, scale)
            else:
                weights = draw.normal(0, scale / np.sqrt(columns), (rows, columns))
                yield f"blk.{layer}.{name}.weight", scheme, _q8_0(weights.astype(np.float32))


def _ones(width: int) -> np.ndarray:
    return np.ones(width, np.float32)


def _recital(embedding: np.ndarray, recites: list[int], draw: np.random.Generator) -> np.ndarray:
    """Return a head whose row of each token is the embedding of the one before it."""
    head = draw.normal(0, 0.01, embedding.shape).astype(np.float32)
    for before, after in itertools.pairwise([*recites, recites[0]]):
        head[after] += embedding[before]
    return head


def _q4_0(draw: np.random.Generator, rows: int, columns: int, scale: float) -> np.ndarray:
    blocks = np.empty((rows, columns // BLOCK, 18), np.uint8)
    size = np.float16(scale / np.sqrt(columns) / 4.32)
    blocks[..., :2] = np.full((rows, columns // BLOCK, 1), size, "<f2").view(np.uint8)
    low, high = (draw.integers(1, 16, (rows, columns // BLOCK, 16), np.uint8) for _ in range(2))
    blocks[..., 2:] = low | (high << 4)
    return blocks.reshape(rows, -1)


def _q8_0(weights: np.ndarray) -> np.ndarray:
    rows, columns = weights.shape
    parts = weights.reshape(rows, columns // BLOCK, BLOCK)
    scale = (np.abs(parts).max(-1, keepdims=True) / 127).astype(np.float16)
    blocks = np.empty((rows, columns // BLOCK, 34), np.uint8)
    blocks[..., :2] = scale.view(np.uint8)
    blocks[..., 2:] = (
        np.rint(parts / np.maximum(scale.astype(np.float32), 1e-12)).astype(np.int8).view(np.uint8)
    )
    return blocks.reshape(rows, -1)
