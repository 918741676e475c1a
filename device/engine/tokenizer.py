"""The Hugging Face tokenizer that was shipped with the model, run by the `tokenizers` library.

So no token can differ from training.
"""

import json
import re
from pathlib import Path

from tokenizers import Tokenizer

from device.errors import DeviceError
from device.manifest import TOKENIZER

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "▁"


class HuggingFaceTokenizer:
    """Text to token ids, and token ids to bytes."""

    def __init__(self, folder: Path) -> None:
        file = folder / TOKENIZER
        try:
            content = file.read_text(encoding="utf-8")
            self._tokenizer = _without_state(Tokenizer.from_str(content))
            decoder = json.dumps(json.loads(content).get("decoder"))
        except Exception as error:  # the library raises no narrower one
            raise DeviceError(
                "bad_model", f"`{TOKENIZER}` beside the model cannot be used: {error}"[:300]
            ) from error

        self._byte_level = "ByteLevel" in decoder
        if not self._byte_level and "ByteFallback" not in decoder:
            raise DeviceError(
                "bad_model", f"`{TOKENIZER}` has a decoder that is not known: {decoder[:80]}"
            )

        self._added = dict(self._tokenizer.get_added_tokens_decoder())

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """Return token ids; special tokens are recognised.

        `begin` adds what the model expects around a text.
        """
        return list(
            self._tokenizer.encode(
                text.encode("utf-8", "replace").decode(), add_special_tokens=begin
            ).ids
        )

    def special_texts(self) -> list[str]:
        """Return the text of every special token."""
        return [str(added.content) for added in self._added.values() if added.special]

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; empty for a special token, or one that has no text."""
        if token in self._added:
            added = self._added[token]
            return b"" if added.special else str(added.content).encode()

        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if self._byte_level:
            return b"".join(_BYTES_OF.get(char, char.encode()) for char in text)

        byte = _BYTE.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()


def _without_state(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer that does not truncate, pad, or merge at random.

    Its trainer may have left such settings in the file.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None
    return tokenizer


def _bytes_of() -> dict[str, bytes]:
    """Return character → byte of a byte-level vocabulary (GPT-2, `bytes_to_unicode`)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): bytes([byte]) for byte in shown} | {
        chr(256 + place): bytes([byte]) for place, byte in enumerate(others)
    }


_BYTES_OF = _bytes_of()
