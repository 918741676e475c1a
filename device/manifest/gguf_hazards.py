"""GGUF headers that follow the format, but make llama.cpp abort or write past its memory.

Each check names what llama.cpp does with the value. Standard library only, Python 3.10 up.
"""

import mmap
import re
from collections.abc import Iterator

from device.manifest.gguf_values import STRING, U64, Array, BadFileError, Value

MAX_LAYERS = 512
"""llama.cpp's own limit, which it asserts (LLAMA_MAX_LAYERS)."""
_TOKENS = "tokenizer.ggml.tokens"
_BYTE_NAME = re.compile(rb"<0x[0-9A-Fa-f]{2}>")
"""Name of a byte's token in some vocabularies."""


def refuse_hazards(view: mmap.mmap, metadata: dict[str, Value]) -> None:
    """Raise BadFileError for a header that llama.cpp does not survive."""
    architecture = metadata.get("general.architecture")
    layers = metadata.get(f"{architecture}.block_count", 1)
    if type(layers) is not int or not 1 <= layers <= MAX_LAYERS:
        raise BadFileError(
            f"metadata `{architecture}.block_count` is {str(layers)[:20]}, not 1 to {MAX_LAYERS}"
        )

    ahead = metadata.get(f"{architecture}.nextn_predict_layers", 0)
    if type(ahead) is not int or not 0 <= ahead <= layers:
        raise BadFileError(
            f"metadata `{architecture}.nextn_predict_layers` is {str(ahead)[:20]}, "
            f"of {layers} layers"
        )

    bytes_by_name = metadata.get("tokenizer.ggml.model") != "gpt2"
    seen = set()

    for place, whole in enumerate(_vocabulary(view, metadata.get(_TOKENS, ()))):
        word = whole.partition(b"\0")[0]  # llama.cpp reads no further
        seen.add(hash(word or b"[EMPTY_%d]" % place))
        if len(seen) <= place:
            raise BadFileError(f"token {place} of the vocabulary is there twice")
        if (
            bytes_by_name
            and word[:3] == b"<0x"
            and word[-1:] == b">"
            and not _BYTE_NAME.fullmatch(word)
        ):
            raise BadFileError(f"token {place} of the vocabulary is named like a byte and is none")


def _vocabulary(view: mmap.mmap, tokens: Value) -> Iterator[bytes]:
    """Yield the words of a vocabulary, whether it was kept or skipped."""
    if isinstance(tokens, tuple):
        yield from (word.encode() for word in tokens if isinstance(word, str))
    elif isinstance(tokens, Array) and tokens.kind == STRING:
        at = tokens.offset
        unpack = U64.unpack_from
        for _ in range(tokens.count):
            (length,) = unpack(view, at)
            yield view[at + 8 : at + 8 + length]
            at += 8 + length
