"""What a GGUF file will take and give on a board that nobody has at hand: memory and speed, from its header and a target's facts.

Memory follows llama.cpp's own allocations; benchmarks/fit.py compares it with measured peaks. Speed follows the roofline: a token
costs one reading of the weights, a prompt one multiplication a weight and token; both rates of a board are measured ones.
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from device.manifest import ManifestError, read_manifest
from device.manifest.gguf import EMBEDDING, HEAD, Array, Header, Tensor, read_header, streamed_bytes
from toolchain.errors import ArtifactError
from toolchain.target import Needs, Profile, Target

BATCH = 512
"""Tokens that the device runtime evaluates at once."""
USUAL_CONTEXT = 4096
"""Tokens that the device runtime takes where nobody says how many, if the model was trained for so many."""
OUTPUT_ROWS = 32
"""Rows of scores that it keeps of a batch."""
RUNTIME_BYTES = 42 << 20
"""The interpreter, the server and the engine's library, before a model is loaded (VmRSS, measured)."""
VOCABULARY_ENTRY_BYTES = 160
"""llama.cpp's tables for one token or one merge (measured: 158)."""
SPEED_ERROR = 0.15
"""How far a forecast rate was from the published ones that it was not made from, at the most (benchmarks/fit.py)."""
REPACKED: dict[Profile, frozenset[str]] = {
    "x86-64": frozenset({"Q4_0", "Q4_K", "IQ4_NL"}),
    "armv8.2+dotprod+fp16": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "Q8_0"}),
}
"""Types that llama.cpp copies into another order for a processor's instructions (ggml-cpu/repack.cpp)."""
F16_BYTES, F32_BYTES = 2, 4
_ROWS = {"x86-64": 8}
"""Rows that are interleaved, where they are not 4."""


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
    """Tokens a second of an answer; None where nobody has measured how fast the target reads while it decodes."""
    prefill: Rate | None
    """Tokens a second of a prompt; None where nobody has measured a file of this type on the target."""


def read_model(path: Path) -> tuple[Header, int]:
    """Return the header of a GGUF file or of a bundle's, and the context it is usually served with; raise ArtifactError."""
    try:
        if not path.is_dir():
            header = read_header(path)
            return header, min(int(_field(header, "context_length", USUAL_CONTEXT)), USUAL_CONTEXT)
        manifest = read_manifest(path)
        return read_header(path / manifest.model), manifest.context
    except ManifestError as error:
        raise ArtifactError(
            str(error), hint="give a GGUF file, or a bundle as `demitasse package` makes it"
        ) from error


def forecast(header: Header, target: Target, context: int, threads: int = 0) -> Forecast:
    """Return what a file with this header takes and gives on a target; 0 threads: as many as are fastest for each."""
    needs, streamed, layers = needs_of(header, context), streamed_bytes(header), _layers(header)
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
    prefills = [Rate(each * 1e9 / sizes.total(), count) for each, count in gweights]
    return Forecast(
        needs=needs,
        peak_bytes=needs.total_bytes + _repacked_bytes(header, target.profile),
        bytes_per_token=streamed,
        decode=max(decodes, default=None),
        prefill=max(prefills, default=None),
    )


def needs_of(header: Header, context: int) -> Needs:
    """Return the memory that a file with this header takes at this context, its cache in f16."""
    tokens, merges = (_length(header, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    return Needs(
        context=context,
        weights_bytes=sum(tensor.size for tensor in header.tensors),
        kv_bytes=_kv_bytes(header, context),
        compute_bytes=_compute_bytes(header),
        runtime_bytes=RUNTIME_BYTES + VOCABULARY_ENTRY_BYTES * (tokens + merges),
    )


def _kv_bytes(header: Header, context: int) -> int:
    """Return what grows with the context: keys and values, and the mask of who sees whom in a batch.

    The runtime keeps the whole context of layers with a window too (`swa_full`).
    """
    heads, width = (
        _most(_field(header, "attention.head_count", 1)),
        _field(header, "embedding_length", 0),
    )
    key_heads = _field(header, "attention.head_count_kv", heads)
    each = (
        key_heads
        if isinstance(key_heads, tuple)
        else (key_heads,) * int(_field(header, "block_count", 0))
    )
    key = _field(header, "attention.key_length", width // max(heads, 1))
    return (
        F16_BYTES
        * (sum(each) * (key + _field(header, "attention.value_length", key)) + BATCH)
        * _padded(context)
    )


def _compute_bytes(header: Header) -> int:
    """Return what llama.cpp reserves for a batch: the widest step of a layer, or the scores."""
    width, inner = (
        _field(header, "embedding_length", 0),
        _most(_field(header, "feed_forward_length", 0)),
    )
    scores = OUTPUT_ROWS * _length(header, "tokenizer.ggml.tokens")
    return int(F32_BYTES * max(BATCH * (4 * width + 3 * inner), scores))


def _repacked_bytes(header: Header, profile: Profile) -> int:
    rows = _ROWS.get(profile, 4)
    kinds = REPACKED.get(profile, frozenset())
    return sum(
        t.size
        for t in header.tensors
        if t.type in kinds and t.name != EMBEDDING and t.shape[-1] % rows == 0
    )


def _layers(header: Header) -> list[Tensor]:
    """Return what each token of a prompt is multiplied with: the head is used once, at the prompt's end."""
    return [tensor for tensor in header.tensors if tensor.name not in (EMBEDDING, HEAD)]


def _field(header: Header, name: str, default: Any) -> Any:
    architecture = header.metadata.get("general.architecture", "")
    value = header.metadata.get(f"{architecture}.{name}", default)
    numbers = value if isinstance(value, tuple) else (value,)
    return value if numbers and all(type(each) is int for each in numbers) else default


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
