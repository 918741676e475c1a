"""Sentence vectors by llama.cpp: an encoder with pooling, of the BERT family.

`toolchain/knowledge/embedder.py` writes its file. It is a small model of its own and remembers
nothing of the text before.
"""

import math
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.llama import objects
from device.errors import DeviceError

MOST_TOKENS = 256
"""Tokens of a text that are read, at most."""
# sentence-transformers cuts MiniLM's texts there, and the buffers of a longer context cost memory.


class Embedder:
    """An open embedder; one text at a time."""

    # One thread by default: a question is a dozen tokens. On two busy cores two threads took 280 ms
    # for it, waiting for each other, where one took 6.

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Open a file; raise DeviceError `bad_model` for one without an encoder and pooling."""
        self._model = objects.model(path)
        self.width = int(llama.llama_model_n_embd_out(self._model))
        """Numbers in a vector."""
        self.context = min(MOST_TOKENS, int(llama.llama_model_n_ctx_train(self._model)))
        """Tokens that are read of a text; the rest is cut off."""
        self._vocabulary = llama.llama_model_get_vocab(self._model)
        self._ctx = self._open(threads)
        if not self._ctx or llama.llama_pooling_type(self._ctx) not in (
            llama.LLAMA_POOLING_TYPE_MEAN,
            llama.LLAMA_POOLING_TYPE_CLS,
        ):
            self.close()
            raise DeviceError("bad_model", f"`{path.name}` is not an embedder")

    def embed(self, text: str) -> list[float]:
        """Return the vector of a text, of length 1."""
        tokens = self.tokens(text)
        array = (llama.llama_token * len(tokens))(*tokens)
        if llama.llama_encode(self._ctx, llama.llama_batch_get_one(array, len(tokens))):
            raise DeviceError("engine_failed", "the embedder could not read the text")

        values = llama.llama_get_embeddings_seq(self._ctx, 0)[: self.width]
        length = math.sqrt(sum(value * value for value in values)) or 1.0
        return [value / length for value in values]

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text between its beginning and its end, cut to what is read."""
        raw = text.encode("utf-8", "replace")
        # WordPiece gives at most one token for a byte, and two stand around the text.
        array = (llama.llama_token * (len(raw) + 2))()
        count = llama.llama_tokenize(
            self._vocabulary, raw, len(raw), array, len(array), True, False
        )
        ids = list(array[:count])
        return ids if count <= self.context else [*ids[: self.context - 1], ids[-1]]

    def close(self) -> None:
        """Free the model; a closed embedder does nothing more."""
        if ctx := getattr(self, "_ctx", None):
            llama.llama_free(ctx)
        if self._model:
            llama.llama_model_free(self._model)
        self._ctx = self._model = None

    def _open(self, threads: int) -> Any:
        params = llama.llama_context_default_params()
        params.embeddings = True
        # An encoder reads a text in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = self.context
        params.n_threads = params.n_threads_batch = threads
        return llama.llama_init_from_model(self._model, params)
