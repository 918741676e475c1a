"""Small GGUF files for tests of the engine, written with the `gguf` package in well under a second.

`tiny_gguf(path)` has random weights: its answers are noise, but the same noise for whoever runs the
file. With `recites` the model answers every question with that text, byte by byte, and then ends:
each token's row of the output head is what follows it.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from device.manifest import Engine, Manifest, file_entry, to_bytes

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END = 258
"""Id of `<|im_end|>`, the token that ends an answer."""
WIDTH, HEADS, LAYERS, INNER = 128, 4, 2, 256
CONTROL, NORMAL = 3, 1


def tiny_gguf(
    path: Path,
    *,
    recites: str = "",
    context: int = 512,
    seed: int = 0,
    eos: int | None = END,
    bos: int | None = None,
    template: str = "",
    licence: str = "",
    words: Sequence[str | bytes] = (),
    drawn: bool = False,
) -> Path:
    """Write a llama of about 2 MB whose vocabulary is the 256 bytes and three specials; byte b has
    the id b.

    With `bos` the file asks for that token before every text. `words` are more tokens: the model
    answers every question with them, one after the other, unless its weights are `drawn`. One in
    `<|…|>` is a control token.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    if licence:
        writer.add_license(licence)
    for add, value in (
        (writer.add_context_length, context),
        (writer.add_embedding_length, WIDTH),
        (writer.add_block_count, LAYERS),
        (writer.add_feed_forward_length, INNER),
        (writer.add_head_count, HEADS),
        (writer.add_head_count_kv, HEADS),
        (writer.add_rope_dimension_count, WIDTH // HEADS),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_file_type, 0),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_tokenizer_pre, "gpt-2"),
        (writer.add_token_list, [*_byte_texts(), *SPECIALS, *map(_word, words)]),
        (writer.add_token_types, [NORMAL] * 256 + [CONTROL] * 3 + [_type(word) for word in words]),
        (writer.add_token_merges, ["Ġ t"]),
        (writer.add_chat_template, template or CHATML),
    ):
        add(value)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if bos is not None:
        writer.add_bos_token_id(bos)
        writer.add_add_bos_token(True)
    first = 256 + len(SPECIALS)
    recital = list(range(first, first + len(words))) or list(recites.encode())
    recital = [] if drawn else recital
    for name, weights in _tensors(recital, seed, len(words)).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_parts(whole: Path, folder: Path, *, tensors: int = 8, **options: Any) -> list[Path]:
    """Write a model again in parts of so many tensors, by the gguf package's own writer."""
    import gguf

    reader = gguf.GGUFReader(whole)
    folder.mkdir()
    writer = gguf.GGUFWriter(
        folder / "m.gguf", "llama", split_max_tensors=tensors, use_temp_file=False, **options
    )
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def tiny_bundle(
    folder: Path,
    *,
    goldens: Sequence[dict[str, Any]] = (),
    system: str = "",
    turns: Sequence[dict[str, Any]] = (),
    context: int = 512,
    recites: str = "",
    template: str = CHATML,
) -> Path:
    """Write a bundle around a tiny model; `goldens` are taken as they come, a check of them is the
    test's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tiny_gguf(folder / "tiny.gguf", context=context, recites=recites)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "goldens.jsonl").write_text(
        "".join(json.dumps(golden) + "\n" for golden in goldens), encoding="utf-8"
    )
    names = ("tiny.gguf", "chat_template.jinja", "goldens.jsonl")
    manifest = Manifest(
        name="tiny",
        version="1.0",
        counter=1,
        target="x86-64",
        context=context,
        engine=Engine("llama.cpp", "0.5"),
        model="tiny.gguf",
        files=tuple(file_entry(folder, name) for name in names),
        system=system,
        turns=tuple(turns),
        max_tokens=32,
    )
    (folder / "manifest.json").write_bytes(to_bytes(manifest))
    return folder


def _word(word: str | bytes) -> str:
    """Return a token's text as the file has it."""
    if isinstance(word, str) and _type(word) == CONTROL:
        return word
    raw = word.encode() if isinstance(word, str) else word
    return "".join(_byte_texts()[b] for b in raw)


def _type(word: str | bytes) -> int:
    return CONTROL if isinstance(word, str) and word.startswith("<|") else NORMAL


def _tensors(recital: Sequence[int], seed: int, more: int = 0) -> dict[str, np.ndarray]:
    """Return float32 weights: random ones, or ones that only name the byte that follows."""
    draw = np.random.default_rng(seed)
    size, block = 256 + len(SPECIALS) + more, 0.0 if recital else 0.15
    embedding = draw.normal(0, 1, (size, WIDTH))
    head = draw.normal(0, 1 if not recital else 0.01, (size, WIDTH))
    tokens = [ord("\n"), *recital, END]
    for before, after in itertools.pairwise(tokens if recital else []):
        head[after] = embedding[before]
    tensors = {
        "token_embd.weight": embedding,
        "output.weight": head,
        "output_norm.weight": np.ones(WIDTH),
    }
    shapes = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH),
        "attn_v": (WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
    }
    for layer in range(LAYERS):
        tensors |= {
            f"blk.{layer}.{norm}.weight": np.ones(WIDTH) for norm in ("attn_norm", "ffn_norm")
        }
        tensors |= {
            f"blk.{layer}.{name}.weight": draw.normal(0, block, shape)
            for name, shape in shapes.items()
        }
    return {name: weights.astype(np.float32) for name, weights in tensors.items()}


def _byte_texts() -> list[str]:
    """Return GPT-2's printable stand-in for each byte (openai/gpt-2 encoder.py,
    `bytes_to_unicode`).
    """
    plain = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]
