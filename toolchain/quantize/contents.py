"""Describes any GGUF file from its checked header: no weight is read, no engine is started.

The scheme in the file's label says little. What counts is the types of the weights, whether
tokenizer and template are inside, and whether an answer can end.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.manifest import ManifestError, onnx, tflite
from device.manifest.gguf import TYPES, Array, Header, Tensor, read_header, read_strings
from toolchain.errors import ArtifactError
from toolchain.quantize.gguf.schemes import SCHEMES

ROLES = ("bos", "eos", "eot", "padding", "unknown")
_COMPUTED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_SHAPE = {
    "layers": "block_count",
    "width": "embedding_length",
    "inner width": "feed_forward_length",
    "heads": "attention.head_count",
    "key heads": "attention.head_count_kv",
    "head width": "attention.key_length",
    "window": "attention.sliding_window",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The tensors of one type."""

    type: str
    tensors: int
    weights: int
    size_bytes: int

    @property
    def bits(self) -> float:
        """Bits per weight."""
        return self.size_bytes * 8 / self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """A token with a role."""

    role: str
    id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Contents of a model file, with warnings about what is odd."""

    file: str
    size_bytes: int
    kind: str
    """`general.type`: model, adapter, imatrix …"""
    architecture: str
    name: str
    licence: str
    base: str
    scheme: str
    """The file's own label, such as `Q4_K_M`."""
    parameters: int
    bits: float
    """Bits per weight over all tensors."""
    types: tuple[Share, ...]
    """The largest first."""
    shape: dict[str, int]
    context: int
    # The next six are in a GGUF file alone.
    rope: str = ""
    tokenizer: str = ""
    vocabulary: int = 0
    specials: tuple[Special, ...] = ()
    template_sha256: str = ""
    template_line: str = ""
    """The template's first line."""
    warnings: tuple[str, ...]
    tensors: tuple[Tensor | tflite.Tensor | onnx.Tensor, ...]


def read_contents(file: Path) -> Contents:
    """Return what is inside a GGUF file; raise ArtifactError for a broken header."""
    try:
        header = read_header(file)
    except ManifestError as error:
        raise ArtifactError(str(error), hint="download or copy the file again") from error

    metadata = header.metadata
    architecture = str(metadata.get("general.architecture", ""))
    weights = [tensor for tensor in header.tensors if tensor.name not in _COMPUTED]
    types = _types(weights)
    template = str(metadata.get("tokenizer.chat_template", ""))
    parameters = sum(share.weights for share in types)
    specials = _specials(file, header)
    scheme = _scheme(metadata.get("general.file_type"))

    return Contents(
        file=file.name,
        size_bytes=header.size,
        kind=str(metadata.get("general.type", "model")),
        architecture=architecture,
        name=str(metadata.get("general.name", "")),
        licence=str(metadata.get("general.license", "")),
        base=_base(metadata),
        scheme=scheme,
        parameters=parameters,
        bits=round(sum(share.size_bytes for share in types) * 8 / max(parameters, 1), 3),
        types=types,
        shape={
            label: value
            for label, key in _SHAPE.items()
            if isinstance(value := metadata.get(f"{architecture}.{key}"), int)
        },
        context=_int(metadata.get(f"{architecture}.context_length")),
        rope=_rope(metadata, architecture),
        tokenizer=" ".join(
            str(metadata[key])
            for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")
            if key in metadata
        ),
        vocabulary=_count(metadata.get("tokenizer.ggml.tokens")),
        specials=specials,
        template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else "",
        template_line=template.strip().partition("\n")[0][:100],
        tensors=header.tensors,
        warnings=tuple(_warnings(header, types, specials, scheme)),
    )


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _count(value: object) -> int:
    return (
        value.count if isinstance(value, Array) else len(value) if isinstance(value, tuple) else 0
    )


def _types(tensors: list[Tensor]) -> tuple[Share, ...]:
    sums: dict[str, list[int]] = {}
    blocks = {name: (block, size) for name, block, size in TYPES.values()}
    for tensor in tensors:
        block, size = blocks[tensor.type]
        found = sums.setdefault(tensor.type, [0, 0, 0])
        for place, amount in enumerate((1, tensor.size // size * block, tensor.size)):
            found[place] += amount
    shares = [
        Share(type=name, tensors=count, weights=weights, size_bytes=size)
        for name, (count, weights, size) in sums.items()
    ]
    return tuple(sorted(shares, key=lambda share: -share.size_bytes))


def _base(metadata: dict[str, Any]) -> str:
    parts = [
        str(metadata.get(f"general.base_model.0.{key}", "")) for key in ("organization", "name")
    ]
    named = "/".join(part for part in parts if part)
    more = str(metadata.get("general.base_model.0.description", ""))
    return f"{named} ({more})" if named and more else named


def _scheme(file_type: object) -> str:
    from gguf import LlamaFileType

    try:
        return str(LlamaFileType(file_type).name).removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return ""


def _rope(metadata: dict[str, Any], architecture: str) -> str:
    base = metadata.get(f"{architecture}.rope.freq_base")
    kind = metadata.get(f"{architecture}.rope.scaling.type")
    factor = metadata.get(f"{architecture}.rope.scaling.factor")
    parts = [
        f"base {base:g}" if isinstance(base, int | float) else "",
        f"{kind} scaling" if kind else "",
    ]
    return " ".join(
        part
        for part in (*parts, f"× {factor:g}" if isinstance(factor, int | float) else "")
        if part
    )


def _specials(file: Path, header: Header) -> tuple[Special, ...]:
    ids = {role: header.metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ROLES}
    known = {role: number for role, number in ids.items() if isinstance(number, int)}
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Array):
        texts = read_strings(file, tokens, set(known.values()))
    else:
        texts = {
            place: str(text)
            for place, text in enumerate(tokens if isinstance(tokens, tuple) else ())
        }

    return tuple(
        Special(role=role, id=number, text=texts.get(number, "")) for role, number in known.items()
    )


def _warnings(
    header: Header, types: tuple[Share, ...], specials: tuple[Special, ...], scheme: str
) -> Iterator[str]:
    """Yield what to know before this file is served."""
    metadata = header.metadata
    if metadata.get("general.type", "model") != "model":
        return

    ids = {special.role: special.id for special in specials}
    vocabulary = _count(metadata.get("tokenizer.ggml.tokens"))
    for special in specials:
        if special.id >= vocabulary:
            yield f"the {special.role} token {special.id} is not in the vocabulary of {vocabulary}"

    if not vocabulary:
        yield "there is no vocabulary"
    elif "eos" not in ids and "eot" not in ids:
        yield "no token ends an answer"

    if ids.get("padding") is not None and ids.get("padding") == ids.get("eos") and "eot" not in ids:
        yield (
            "padding is the token that ends an answer: "
            "a model trained with padding masked may never have learned to stop"
        )

    if "tokenizer.chat_template" not in metadata:
        yield "no chat template: engines will guess one"

    if metadata.get("tokenizer.ggml.model") == "gpt2" and "tokenizer.ggml.pre" not in metadata:
        yield "no `tokenizer.ggml.pre`: text is cut in a default way before it is merged"

    yield from _label_warnings(types, scheme)


def _label_warnings(types: tuple[Share, ...], scheme: str) -> Iterator[str]:
    known = SCHEMES.get(scheme)
    total = sum(share.weights for share in types)
    if known and total:
        base = sum(share.weights for share in types if share.type == known.base.name) / total
        if base < 0.5:
            yield f"labelled {scheme}, but only {base:.0%} of the weights are {known.base.name}"
