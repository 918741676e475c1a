"""GGUF files through llama.cpp, by llama-cpp-python's low-level ctypes interface only.

A runtime holds `llama_cpp.py` and its libraries without the high-level package, so that no numpy
travels and nothing is detokenized twice. This module is imported by `device.engine.load` only, when
a file is loaded.
"""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as llama

from device.engine.answering import Clock, Stream
from device.engine.base import (
    DEFAULT_CONTEXT,
    Picture,
    Sampling,
    Settings,
    check_biases,
    check_prompt,
    is_picture,
    never,
)
from device.engine.llama import objects as opening
from device.engine.llama.cells import LlamaCells
from device.engine.llama.decoding import LlamaDecoder
from device.engine.llama.objects import N_OUTPUTS
from device.engine.llama.threads import Threads
from device.engine.machine import others_run
from device.engine.reading import SequenceEngine
from device.engine.sequence import ReadSequence
from device.errors import DeviceError
from device.manifest import ManifestError, gguf
from device.manifest.gguf import read_header

if TYPE_CHECKING:
    from device.engine.llama.eyes import Eyes


@dataclass(frozen=True)
class _Weights:
    """What contexts on the same weights share."""

    path: Path
    settings: Settings
    model: Any
    adapter: Any = None
    eyes: "Eyes | None" = None


TRIAL_TOKENS = 4
"""Tokens that are decoded with each number of threads while other programs run."""
# Enough to tell twice as fast from as fast.


class LlamaEngine(SequenceEngine):
    """A model in llama.cpp with one context and one sequence."""

    def __init__(self, weights: _Weights, *, owner: bool = True) -> None:
        path = weights.path
        settings = weights.settings
        if weights.eyes and weights.eyes.is_mutual:
            # A smaller batch would cut a picture: llama.cpp ends the process then.
            settings = replace(settings, batch=0)
        self._model = weights.model
        self._weights = weights
        self._owner = owner
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._n_vocab: int = llama.llama_vocab_n_tokens(self._vocab)
        self._context = settings.context or min(
            llama.llama_model_n_ctx_train(self._model), DEFAULT_CONTEXT
        )
        self._ctx = opening.context(self._model, path, replace(settings, context=self._context))
        self._threads = Threads(self._ctx)
        self._cpus = os.sched_getaffinity(0)
        self.eyes = weights.eyes
        """What sees pictures; None for a model that reads text alone."""
        try:
            self._begin(weights)
        except BaseException:
            self._end()
            raise

    def _begin(self, weights: _Weights) -> None:
        """Make what the context is used through, and choose its threads."""
        path, settings = weights.path, weights.settings
        if weights.adapter:
            opening.adapt(self._ctx, weights.adapter)

        cells = LlamaCells(self._ctx, self._threads, self.eyes)
        self._sequence = ReadSequence(cells, settings.slots)
        self._decoder = LlamaDecoder(
            self._model, self._ctx, self._sequence, speculative=settings.speculative
        )
        self._description = opening.describe(self._model, self._ctx, path, settings)
        self._flash = settings.flash
        self.use_threads(self._description.threads, self._description.threads_batch, settings.cpus)
        if not settings.threads and settings.slots == 1 and others_run():
            self._choose_threads()

    def _end(self) -> None:
        """Give back the context and the cores; not the model, whose owner frees it."""
        os.sched_setaffinity(0, self._cpus)
        if sequence := getattr(self, "_sequence", None):
            sequence.close()
        llama.llama_free(self._ctx)
        self._threads.close()

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self._n_vocab

    @property
    def chat_template(self) -> str:
        """The template inside the file; empty if it has none."""
        return (llama.llama_model_chat_template(self._model, None) or b"").decode(
            "utf-8", "replace"
        )

    def special_tokens(self) -> dict[str, str]:
        """Return `bos_token` and `eos_token` as text, if the file names them."""
        # llama.cpp itself guesses them for a file that does not.
        tokens = {
            "bos_token": llama.llama_vocab_bos(self._vocab),
            "eos_token": llama.llama_vocab_eos(self._vocab),
        }
        named = {
            name: token
            for name, token in tokens.items()
            if opening.metadata(self._model, f"tokenizer.ggml.{name}_id")
        }
        return {
            name: llama.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
            for name, token in named.items()
        }

    def control_tokens(self) -> list[str]:
        """Return the text of every control token.

        llama.cpp parses those in a text (`tokenizer_st_partition`).
        """
        steering = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
        return [
            llama.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
            for token in range(self._n_vocab)
            if llama.llama_vocab_get_attr(self._vocab, token) & steering
            or llama.llama_vocab_is_eog(self._vocab, token)
        ]

    def tokenize(self, text: str, *, begin: bool = False) -> list[int]:
        """Return token ids; special tokens are recognised.

        `begin` adds what the model expects before a text.
        """
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        while True:
            tokens = (llama.llama_token * room)()
            count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, room, begin, True)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    @property
    def picture_marker(self) -> str:
        """Text by which the chat template shows a picture; empty without a projector file."""
        return self.eyes.marker if self.eyes else ""

    def see(self, image: bytes) -> Picture:
        """Return a picture as it stands in a prompt."""
        return self.eyes.see(image) if self.eyes else super().see(image)

    def knows(self, token: int) -> bool:
        """Say whether an id stands for a position of a picture that is kept."""
        return is_picture(token) and self.eyes is not None and self.eyes.knows(token)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for a control token or a picture's position."""
        return opening.piece(self._vocab, token)

    def marked_piece(self, token: int) -> bytes:
        """Return the bytes of a token, a control token's too."""
        return opening.piece(self._vocab, token, special=True)

    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        """Raise DeviceError for a prompt that cannot be evaluated."""
        check_prompt(tokens, self, answered=sampling is not None, knows=self.knows)
        if sampling:
            check_biases(sampling.logit_bias, self._n_vocab)

    def embed(
        self, tokens: Sequence[int], cancelled: Callable[[], bool] = never
    ) -> "list[float] | None":
        """Return the mean of the last layer over all tokens; nothing is reused."""
        self.check(tokens, None)
        self._sequence.clear()
        llama.llama_set_embeddings(self._ctx, True)
        try:
            with self._sequence.watched(cancelled):
                return self._mean(list(tokens), cancelled)
        finally:
            llama.llama_set_embeddings(self._ctx, False)
            self._sequence.clear()

    @property
    def state_kind(self) -> str:
        """llama.cpp's version and build, and the layout of keys and values in memory."""
        loaded = self._description
        build = llama.llama_print_system_info().decode()
        shape = f"kv {loaded.kv_type} batch {loaded.n_batch} {loaded.n_ubatch} flash {self._flash}"
        return f"{loaded.engine} {loaded.version} {build} {shape}"

    def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
        """Decode and read with these numbers of threads.

        Threads that llama.cpp starts inherit the cores of the thread that starts them.
        """
        os.sched_setaffinity(0, set(cpus) & self._cpus or self._cpus)
        self._threads.use(decode, prefill)
        self._decoder.exact.clear()

    def new_context(self) -> "LlamaEngine":
        """Return another context on the same model."""
        return LlamaEngine(self._weights, owner=False)

    def close(self) -> None:
        """Give the memory and the cores back."""
        if self._model:
            self._end()
            if self._owner:
                if self.eyes:
                    self.eyes.close()
                llama.llama_model_free(self._model)
            self._model = None

    def _rows(self, tokens: list[int]) -> Iterator[bytes]:
        for at in range(0, len(tokens), N_OUTPUTS):
            part = tokens[at : at + N_OUTPUTS]
            self._sequence.decode(part, every_row=True)
            for row in range(len(part)):
                yield ctypes.string_at(
                    llama.llama_get_logits_ith(self._ctx, row), self._n_vocab * 4
                )

    def _mean(self, tokens: list[int], cancelled: Callable[[], bool]) -> "list[float] | None":
        """Return the mean of the last layer's rows; only a batch of them is in memory."""
        width = llama.llama_model_n_embd_out(self._model)
        total = [0.0] * width
        for at in range(0, len(tokens), N_OUTPUTS):
            part = tokens[at : at + N_OUTPUTS]
            if cancelled() or not self._sequence.decode(part, every_row=True):
                return None
            for row in range(len(part)):
                values = llama.llama_get_embeddings_ith(self._ctx, row)[:width]
                total = [one + other for one, other in zip(total, values, strict=True)]

        return [value / len(tokens) for value in total]

    def _choose_threads(self) -> None:
        """Decode a little with all threads, with half of them and with one; go on with the fastest.

        Answers stay the same up to 512 tokens: from there on the number of threads decides the last
        bits (decoding.py).
        """
        most = self._description.threads
        cpus = self._weights.settings.cpus
        if most == 1:
            return

        tokens = min(TRIAL_TOKENS, self._context - 1)
        self.time_decode(1)  # which reads the weights from the disk

        seconds = {}

        for threads in sorted({most, (most + 1) // 2, 1}):
            self.use_threads(threads, threads, cpus)
            seconds[threads] = self.time_decode(tokens)

        best = min(seconds, key=seconds.__getitem__)
        self.use_threads(best, best, cpus)
        self._description = replace(self._description, threads=best, threads_batch=best)
        self.forget()

    def _chosen(
        self,
        tokens: list[int],
        sampling: Sampling,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        return self._decoder.chosen(tokens, sampling, room, clock, cancelled)

    def _ends(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_eog(self._vocab, token))


def streamed_bytes(path: Path) -> int:
    """Return the bytes of a GGUF file that are read for each token; raise ManifestError."""
    return gguf.streamed_bytes(read_header(path))


def load(path: Path, settings: Settings) -> LlamaEngine:
    """Load a GGUF file whose header is sound.

    Raise DeviceError `bad_model` with the reason, llama.cpp's own if it gives one.
    """
    try:
        for file in filter(None, (path, settings.adapter, settings.projector)):
            read_header(file)
    except ManifestError as error:
        raise DeviceError("bad_model", str(error)) from error

    model = opening.model(path, mapped=settings.mmap, gpu_layers=settings.gpu_layers)
    eyes = None
    try:
        adapter = opening.adapter(model, settings.adapter) if settings.adapter else None
        eyes = _eyes(model, settings)
        return LlamaEngine(_Weights(path, settings, model, adapter, eyes))
    except BaseException:
        if eyes:
            eyes.close()
        llama.llama_model_free(model)
        raise


def _eyes(model: Any, settings: Settings) -> "Eyes | None":
    """Return what sees pictures for a model; None if it has no projector file."""
    if settings.projector is None:
        return None
    try:
        from device.engine.llama.eyes import Eyes
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            "no_engine",
            f"this runtime reads no pictures: {error}",
            hint="build llama-cpp-python with libmtmd: scripts/engine-wheel.sh",
        ) from error
    return Eyes(model, settings.projector, settings)
