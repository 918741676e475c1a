"""Memory and speed of a model file on a board, forecast from its header and a target's facts.

Memory follows llama.cpp's and LiteRT's own allocations; benchmarks/fit.py compares it with measured
peaks. Speed follows the roofline: a token costs one reading of the weights, a prompt one
multiplication a weight and token. Both rates of a board are measured ones; where nobody has
measured how fast it decodes, the rate of its memory is a bound.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from device.manifest import Manifest
from device.manifest import tflite as lite
from device.manifest.gguf import EMBEDDING, HEAD, Array, Header, Tensor, read_header, streamed_bytes
from device.manifest.pictures import MAX_PIXELS
from toolchain.figures import KnowledgeFigures, ModelFigures
from toolchain.profiles import PROFILES, Profile
from toolchain.target import Needs, Target

BATCH = 512
"""Tokens that the device runtime evaluates at once."""
USUAL_CONTEXT = 4096
"""Default context of the device runtime in tokens, if the model was trained for as many."""
OUTPUT_ROWS = 32
"""Rows of scores that it keeps of a batch."""
RUNTIME_BYTES = 42 << 20
"""Memory of interpreter, server and engine library before a model is loaded."""
# VmRSS, measured.
VOCABULARY_ENTRY_BYTES = 160
"""Bytes of llama.cpp's tables for one token or one merge."""
# Measured: 158.
SPEED_ERROR = 0.15
"""Relative error of a predicted speed."""
# The largest that was seen against published speeds that no figure was made from
# (benchmarks/fit.py).
EMBEDDER_BYTES = 14 << 20
"""Memory of the embedder's vocabulary and context, and of SQLite's cache."""
# VmRSS, measured.
ENTRY_BYTES = 110
"""Memory of an entry's sign bits as a Python number, and of its passage."""
F16_BYTES, F32_BYTES = 2, 4


class Rate(NamedTuple):
    """How fast, with how many threads."""

    tok_s: float
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a model file is expected to do on a target."""

    needs: Needs
    peak_bytes: int
    """Resident memory at its highest, the mapped file with it (VmHWM)."""
    bytes_per_token: int
    """Weights that are read for each token of an answer."""
    decode: Rate | None
    """Tokens a second of an answer; None where nobody has measured how fast the target reads while
    it decodes."""
    prefill: Rate | None
    """Tokens a second of a prompt; None where nobody has measured a file of this type on the
    target."""
    decode_at_most: float | None = None
    """Tokens a second of an answer that the target's memory could feed; None where its bandwidth is
    not known."""


def forecast(
    header: Header, target: Target, context: int, threads: int = 0, *, beside_bytes: int = 0
) -> Forecast:
    """Return what a file with this header takes and gives on a target.

    `beside_bytes` are those of an unmerged adapter.

    0 threads: as many as are fastest for each.
    """
    needs = needs_of(header, context, beside_bytes)
    streamed, layers = max(1, streamed_bytes(header) + beside_bytes), _layers(header)
    sizes = Counter[str]()
    for tensor in layers:
        sizes[tensor.type] += math.prod(tensor.shape)
    kind = max(sizes, key=sizes.__getitem__, default="")
    known = [speed for speed in target.speed if threads in (0, speed.threads)]
    decodes = [
        Rate(speed.decode_gb_s * 1e9 / streamed, speed.threads)
        for speed in known
        if speed.decode_gb_s
    ]
    gweights = [
        (speed.prefill_gweights_s[kind], speed.threads)
        for speed in known
        if kind in speed.prefill_gweights_s
    ]
    prefills = [Rate(each * 1e9 / max(1, sizes.total()), count) for each, count in gweights]
    return Forecast(
        needs=needs,
        peak_bytes=needs.total_bytes + _repacked_bytes(header, target.profile),
        bytes_per_token=streamed,
        decode=max(decodes, default=None),
        prefill=max(prefills, default=None),
        decode_at_most=decode_bound(target, streamed),
    )


def decode_bound(target: Target, bytes_per_token: int) -> float | None:
    """Return the tokens a second that no runtime exceeds.

    Only the bandwidth of the memory as built is a bound: the measured ones in `targets/` are of one
    core, and several read more.
    """
    bandwidth = target.memory.bandwidth_theoretical_gb_s
    return bandwidth * 1e9 / bytes_per_token if bandwidth and bytes_per_token else None


def needs_of(header: Header, context: int, beside_bytes: int = 0) -> Needs:
    """Return the memory that a file with this header takes at this context, its cache in f16.

    `beside_bytes` are those of an adapter that stays apart from the file.
    """
    tokens, merges = (_length(header, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    return Needs(
        context=context,
        weights_bytes=sum(tensor.size for tensor in header.tensors) + beside_bytes,
        kv_bytes=_kv_bytes(header, context),
        compute_bytes=_compute_bytes(header),
        runtime_bytes=RUNTIME_BYTES + VOCABULARY_ENTRY_BYTES * (tokens + merges),
    )


def gguf_needs(file: Path, context: int, adapter: Path | None) -> dict[str, int]:
    """Return the bytes of memory of each kind that a GGUF file takes, with an unmerged adapter."""
    adapter_bytes = adapter.stat().st_size if adapter else 0
    needs = asdict(needs_of(read_header(file), context, adapter_bytes))
    return {part: size for part, size in needs.items() if part.endswith("_bytes")}


def trained_context(header: Header) -> int:
    """Return the tokens of context that a GGUF's model was trained for; 0 if it does not say."""
    return int(_most(_field(header, "context_length", 0)))


def usual_context(trained: int) -> int:
    """Return the context that a model is served with by default."""
    return min(trained, USUAL_CONTEXT) if trained else USUAL_CONTEXT


def needs_of_bundle(manifest: Manifest) -> Needs | None:
    """Return the memory that a bundle says it takes; None for one that says nothing."""
    parts = {name: size for name, size in manifest.needs.items() if name in _PARTS}
    if not {"weights_bytes", "kv_bytes", "compute_bytes"} <= parts.keys():
        return None
    return Needs(**{"context": manifest.context, "runtime_bytes": RUNTIME_BYTES, **parts})


_PARTS = {
    "weights_bytes",
    "kv_bytes",
    "compute_bytes",
    "runtime_bytes",
    "knowledge_bytes",
    "vision_bytes",
}


SQUEEZED = ("gemma3",)
"""Kinds of projectors whose pictures the decoder squeezes into a tile."""
UNPACKER_BYTES = 40 << 20
"""Memory of the child process that decodes pictures, while it decodes the largest one."""
# Measured: 25 MiB of its own, and 14 more for a JPEG of 2 megapixels.
SQUEEZER_BYTES = 26 << 20
"""Memory that it takes more where it squeezes the largest picture into a tile."""
# Measured with a JPEG of 4 megapixels: 66 MiB in all.
EYES_LIBRARY_BYTES = 8 << 20
"""Memory of libmtmd's code and tables."""
# VmRSS, measured.


def projector_needs(file: Path) -> dict[str, int]:
    """Return the memory that seeing takes: weights, buffers of one tile, and the decoder."""
    header = read_header(file)
    squeezer = SQUEEZER_BYTES if _is_squeezed(header) else 0
    return {"vision_bytes": vision_bytes(header) + UNPACKER_BYTES + squeezer}


def _is_squeezed(header: Header) -> bool:
    return header.metadata.get("clip.projector_type") in SQUEEZED


def vision_bytes(header: Header) -> int:
    """Return the memory of a projector file while a picture of one tile is encoded.

    llama.cpp keeps a few steps of a layer at a time (tools/mtmd/clip.cpp). Measured with a tower of
    SmolVLM-256M's shape and a picture of 4 megapixels: 160 MiB where this says 155 (Q8_0), 242
    where it says 237 (F16).
    With Gemma 3's tower, two layers deep: 281 MiB where this says 281 (Q8_0), 300 where it says
    299 (F16); with 512 × 4,096 instead of its 1,152 × 4,304, 188 where it says 190.
    """
    weights = sum(tensor.size for tensor in header.tensors)
    squeezed = _is_squeezed(header)
    side, patch, width, inner = (
        int(_most(header.metadata.get(f"clip.vision.{key}", 0)) or 0)
        for key in (
            "image_size",
            "patch_size",
            "embedding_length",
            "feed_forward_length",
        )
    )
    wide = 2 if squeezed else 3
    steps = F32_BYTES * (side // max(1, patch)) ** 2 * (4 * width + wide * inner)
    # The largest picture that is read, as it comes from its decoder and as llama.cpp copies it; it
    # is given back before the tile is encoded. One that the decoder squeezes comes as a tile.
    pixels = side * side if squeezed else MAX_PIXELS
    pictures = 2 * 3 * pixels + 2 * F32_BYTES * 3 * side * side
    return weights + EYES_LIBRARY_BYTES + max(steps, pictures)


def knowledge_bytes(figures: KnowledgeFigures) -> int:
    """Return the memory that documents take: the embedder, its buffers, and each entry's signs."""
    entries = figures.passages + figures.parts + figures.questions + figures.unanswered
    return figures.embedder_bytes + EMBEDDER_BYTES + entries * ENTRY_BYTES


def _kv_bytes(header: Header, context: int) -> int:
    """Return the bytes that grow with the context: keys and values, and a batch's attention mask.

    The runtime keeps the whole context of layers with a window too (`swa_full`).
    """
    heads = max(1, _most(_field(header, "attention.head_count", 1)))
    width = _most(_field(header, "embedding_length", 0))
    key_heads = _field(header, "attention.head_count_kv", heads)
    each = (
        key_heads
        if isinstance(key_heads, tuple)
        else (key_heads,) * int(_most(_field(header, "block_count", 0)))
    )
    key = _most(_field(header, "attention.key_length", width // heads))
    value = _most(_field(header, "attention.value_length", key))
    return int(F16_BYTES * (sum(each) * (key + value) + BATCH) * _padded(context))


def _compute_bytes(header: Header) -> int:
    """Return what llama.cpp reserves for a batch: the widest step of a layer, or the scores."""
    width, inner = (
        _most(_field(header, "embedding_length", 0)),
        _most(_field(header, "feed_forward_length", 0)),
    )
    scores = OUTPUT_ROWS * _length(header, "tokenizer.ggml.tokens")
    return int(F32_BYTES * max(BATCH * (4 * width + 3 * inner), scores))


def _repacked_bytes(header: Header, profile: Profile) -> int:
    processor = PROFILES[profile]
    return sum(
        t.size
        for t in header.tensors
        if t.type in processor.repacked
        and t.name != EMBEDDING
        and t.shape[-1] % processor.repacked_rows == 0
    )


def _layers(header: Header) -> list[Tensor]:
    """Return the tensors that each token of a prompt is multiplied with: all but the head."""
    # The head is used once, at the prompt's end.
    return [tensor for tensor in header.tensors if tensor.name not in (EMBEDDING, HEAD)]


def _field(header: Header, name: str, default: Any) -> Any:
    """Return a number of the header, or one for each layer; the default for what is neither."""
    architecture = header.metadata.get("general.architecture", "")
    value = header.metadata.get(f"{architecture}.{name}", default)
    each = value if isinstance(value, tuple) else (value,)
    sound = bool(each) and all(type(number) is int and number >= 0 for number in each)
    return value if sound else default


def _most(value: Any) -> Any:
    """Return the largest where a field has a value for each layer."""
    return max(value) if isinstance(value, tuple) else value


def _length(header: Header, key: str) -> int:
    value = header.metadata.get(key)
    return (
        value.count if isinstance(value, Array) else len(value) if isinstance(value, tuple) else 0
    )


def _padded(tokens: int) -> int:
    return -(-tokens // 256) * 256


# TFLite -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteSizes:
    """What a TFLite decoder's signatures say of its size."""

    context: int
    """Tokens of context that its cache has places for; 0 for a file that is no decoder."""
    prefill: tuple[int, ...]
    """Lengths of the pieces that it reads prompts in."""
    weights_bytes: int
    kv_bytes_per_token: int
    n_vocab: int


def lite_sizes(header: lite.Header) -> LiteSizes:
    """Return what a TFLite decoder's signatures say of its size."""
    decode = next((each for each in header.signatures if each.name == "decode"), None)
    mask, logits = (
        (decode.inputs.get("mask"), decode.outputs.get("logits")) if decode else (None, None)
    )
    context = mask.shape[-1] if mask and mask.shape else 0
    caches = [
        tensor.size
        for name, tensor in (decode.inputs if decode else {}).items()
        if name.startswith("kv_cache_")
    ]
    lengths = [each.name.removeprefix("prefill_") for each in header.signatures]
    return LiteSizes(
        context=context,
        prefill=tuple(sorted(int(length) for length in lengths if length.isdigit())),
        weights_bytes=sum(tensor.size for tensor in header.constants),
        kv_bytes_per_token=sum(caches) // context if context else 0,
        n_vocab=logits.shape[-1] if logits and logits.shape else 0,
    )


def sizes_of(figures: ModelFigures) -> LiteSizes:
    """Return the sizes of a TFLite file that a stage made or took."""
    return LiteSizes(
        context=figures.context,
        prefill=tuple(figures.prefill or ()),
        weights_bytes=figures.weights_bytes,
        kv_bytes_per_token=figures.kv_bytes_per_token or 0,
        n_vocab=figures.n_vocab,
    )


def tflite_needs(sizes: LiteSizes, context: int) -> dict[str, int]:
    """Return the bytes of memory that a TFLite file takes.

    LiteRT packs the weights for each of its graphs, and each graph has a cache that comes in and
    one that goes out.
    """
    graphs = 1 + len(sizes.prefill)
    return {
        "weights_bytes": sizes.weights_bytes * graphs,
        "kv_bytes": sizes.kv_bytes_per_token * context * 2 * graphs,
        "compute_bytes": BATCH * sizes.n_vocab * 4 + (16 << 20),
    }


def tflite_forecast(header: lite.Header, target: Target) -> Forecast:
    """Return what a TFLite file takes and gives on a target: its context is part of the file.

    Nobody has published how fast LiteRT decodes on these boards: its memory's bandwidth is what is
    known.
    """
    sizes = lite_sizes(header)
    needs = Needs(
        context=sizes.context,
        runtime_bytes=RUNTIME_BYTES,
        **tflite_needs(sizes, sizes.context),
    )
    read = sizes.weights_bytes - _looked_up_bytes(header, sizes.n_vocab)
    return Forecast(
        needs=needs,
        peak_bytes=needs.total_bytes,
        bytes_per_token=read,
        decode=None,
        prefill=None,
        decode_at_most=decode_bound(target, read),
    )


def _looked_up_bytes(header: lite.Header, n_vocab: int) -> int:
    """Return the bytes of an untied embedding: one row of it is read for a token."""
    tables = [
        tensor.size
        for tensor in header.constants
        if len(tensor.shape) == 2 and tensor.shape[0] == n_vocab
    ]
    return max(tables) if len(tables) > 1 else 0
