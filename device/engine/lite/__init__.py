"""TFLite files through LiteRT's interpreter.

The library is ai-edge-litert, or tflite-runtime 2.14 for files that it computes correctly.

This module is imported by `device.engine.load` only, when a file is loaded. CompiledModel is not
used (docs/adr/0010).
"""

import importlib.metadata
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from device.engine.answering import Clock, Stream
from device.engine.base import Description, FieldError, Sampling, Settings, check_prompt, never
from device.engine.lite.cells import LiteCells
from device.engine.lite.sampling import Sampler
from device.engine.lite.tokenizer import HuggingFaceTokenizer
from device.engine.machine import default_threads
from device.engine.reading import SequenceEngine
from device.engine.sequence import ReadSequence
from device.engine.states import BATCH
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.tflite import Header, Tensor, foreign_operators, legacy_fault, read_header


class LiteEngine(SequenceEngine):
    """A model in a LiteRT interpreter with one sequence."""

    def __init__(self, path: Path, header: Header, settings: Settings) -> None:
        interpreter, name, version = _interpreter()
        if name == LEGACY and (fault := legacy_fault(header) or _numpy_fault()):
            raise DeviceError(
                "bad_model",
                f"`{path.name}` is not run: {fault}",
                hint="use ai-edge-litert, or another scheme",
            )

        self._tokenizer, self._note, self._all_cpus = (
            HuggingFaceTokenizer(path.parent),
            header.note,
            os.sched_getaffinity(0),
        )
        size = sum(tensor.size for tensor in header.constants)
        threads = settings.threads or default_threads(size)
        self._reopen: Callable[[int], LiteCells] = lambda threads: _opened(
            path, header, interpreter, threads
        )
        self._cells = self._reopen(threads)
        self._sequence = ReadSequence(self._cells)
        os.sched_setaffinity(0, set(settings.cpus) & self._all_cpus or self._all_cpus)
        self._context = settings.context or self._cells.context
        self._stops = frozenset(_ids(header.note.get("stop_ids")))
        self._description = Description(
            engine=name,
            version=version,
            model_filename=path.name,
            model_type=_kind(header.note),
            model_size=size,
            model_n_params=_count(header.note, "parameters"),
            context_train=_count(header.note, "context_train"),
            n_batch=BATCH,
            n_ubatch=max(self._cells.pieces, default=1),
            threads=threads,
            threads_batch=threads,
            kv_type="f32",
        )
        if self._context > self._cells.context:
            raise DeviceError(
                "bad_model",
                f"`{path.name}` has {self._cells.context} tokens of context, "
                f"{self._context} are asked",
            )

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self._cells.n_vocab

    @property
    def chat_template(self) -> str:
        """Empty: a TFLite file has no template, so the file beside it is used."""
        return ""

    def special_tokens(self) -> dict[str, str]:
        """Return `bos_token` and `eos_token` as text, if the file names them."""
        return {
            name: str(self._note[name])
            for name in ("bos_token", "eos_token")
            if self._note.get(name)
        }

    def control_tokens(self) -> list[str]:
        """Return the text of every special token of the tokenizer."""
        return self._tokenizer.special_texts()

    def tokenize(self, text: str, *, begin: bool = False) -> list[int]:
        """Return token ids; special tokens are recognised.

        `begin` adds what the model expects before a text.
        """
        return self._tokenizer.encode(text, begin=begin)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for a control token."""
        return self._tokenizer.piece(token)

    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        """Raise DeviceError for a prompt or a request that these graphs cannot serve."""
        if sampling is None:
            # The graphs give the scores of tokens, not what the last layer makes of them.
            raise DeviceError(
                "unsupported",
                "this model's file gives no embeddings",
                hint="push it as GGUF",
                status=400,
            )

        check_prompt(tokens, self)
        if sampling.grammar:
            raise FieldError(
                "response_format",
                "this engine cannot hold an answer to a grammar: use a GGUF of the model",
            )

    def embed(
        self, tokens: Sequence[int], cancelled: Callable[[], bool] = never
    ) -> "list[float] | None":
        """Raise DeviceError `unsupported`: these graphs give no embeddings."""
        self.check(tokens, None)
        return None

    @property
    def state_kind(self) -> str:
        """The library, and how prompts are cut into pieces."""
        loaded = self._description
        shape = f"pieces {self._cells.pieces} batch {BATCH} context {self._cells.context}"
        return f"{loaded.engine} {loaded.version} kv f32 {shape}"

    def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
        """Decode and read with `decode` threads on these cores; the memory is emptied."""
        os.sched_setaffinity(0, set(cpus) & self._all_cpus or self._all_cpus)
        self._sequence.close()
        self._cells = self._reopen(decode)
        self._sequence = ReadSequence(self._cells)
        self._description = replace(self._description, threads=decode, threads_batch=decode)

    def new_context(self) -> None:
        """Return None: each interpreter packs the weights anew, so nothing would be shared."""

    def close(self) -> None:
        """Give the memory and the cores back."""
        os.sched_setaffinity(0, self._all_cpus)
        self._sequence.close()

    def _rows(self, tokens: list[int]) -> Iterator[bytes]:
        for token in tokens:
            self._sequence.decode([token])
            yield self._cells.rows[-1].tobytes()

    def _chosen(
        self,
        tokens: list[int],
        sampling: Sampling,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        sampler = Sampler(sampling)
        chosen = sampler.choose(self._cells.rows[-1])
        yield chosen
        for _ in range(room - 1):
            if cancelled():
                return

            began = time.perf_counter()
            self._sequence.decode([chosen[0]])
            chosen = sampler.choose(self._cells.rows[-1])
            clock.ran(1, began)
            yield chosen

    def _ends(self, token: int) -> bool:
        return token in self._stops


LITERT, LEGACY = "litert", "tflite-runtime"
"""Names of the engines, as manifests spell them."""


def streamed_bytes(path: Path) -> int:
    """Return the bytes of a TFLite file: nobody has counted yet what one token reads of them."""
    return path.stat().st_size


def load(path: Path, settings: Settings) -> LiteEngine:
    """Load a TFLite file that is sound and that this library computes correctly.

    Raise DeviceError `bad_model` with the reason.
    """
    try:
        header = read_header(path)
    except ManifestError as error:
        raise DeviceError("bad_model", str(error)) from error

    if foreign := foreign_operators(header):
        raise DeviceError(
            "bad_model",
            f"`{path.name}` computes with operator {foreign[0]}, which no decoder of ours does",
        )
    if settings.adapter:
        raise DeviceError(
            "bad_model",
            f"`{path.name}`: an adapter goes into a TFLite file when it is made, not beside it",
        )

    _check_signatures(path, header)
    return LiteEngine(path, header, settings)


def _interpreter() -> tuple[Any, str, str]:
    """Return (interpreter class, engine name, version) of the newer library that is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, LITERT, importlib.metadata.version("ai-edge-litert")
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

        return Interpreter, LEGACY, importlib.metadata.version("tflite-runtime")


def _numpy_fault() -> str:
    return (
        ""
        if np.__version__.startswith("1.")
        else f"tflite-runtime 2.14 needs numpy 1, here is {np.__version__}"
    )


def _opened(path: Path, header: Header, interpreter: Any, threads: int) -> LiteCells:
    try:
        return LiteCells(interpreter(str(path), num_threads=threads), header)
    except (RuntimeError, ValueError, SystemError) as error:
        raise DeviceError("bad_model", f"`{path.name}` cannot be loaded: {error}"[:300]) from error


def _check_signatures(path: Path, header: Header) -> None:
    """Raise DeviceError for a file without the signatures of a decoder.

    They are `decode`, and `prefill_<n>` over the same caches (litert-torch).
    """
    signatures = {signature.name: signature for signature in header.signatures}
    decode = signatures.get("decode")
    if (
        not decode
        or decode.graph != 0
        or not decode.inputs.get("mask")
        or len(decode.inputs["mask"].shape) != 4
    ):
        raise DeviceError("bad_model", f"`{path.name}` has no signature `decode` of a decoder")

    context = decode.inputs["mask"].shape[-1]
    caches = _caches(decode.inputs)

    for name, signature in signatures.items():
        tokens = (
            int(name.removeprefix("prefill_")) if re.fullmatch(r"prefill_[1-9]\d{0,5}", name) else 1
        )
        expected = {
            "tokens": (1, tokens),
            "input_pos": (tokens,),
            "mask": (1, 1, tokens, context),
            **caches,
        }
        outputs = {key: tensor.shape for key, tensor in signature.outputs.items()}
        inputs = {key: tensor.shape for key, tensor in signature.inputs.items()}
        if (
            inputs != expected
            or not caches.items() <= outputs.items()
            or (name == "decode") != (tokens == 1)
        ):
            raise DeviceError(
                "bad_model", f"`{path.name}`: signature `{name}` is not that of a decoder"
            )

    logits = decode.outputs.get("logits")
    if (
        not logits
        or len(logits.shape) != 3
        or any(len(shape) != 4 or shape[2] != context for shape in caches.values())
    ):
        raise DeviceError(
            "bad_model", f"`{path.name}`: signature `decode` is not that of a decoder"
        )


def _caches(tensors: "dict[str, Tensor]") -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items() if name.startswith("kv_cache_")}


def _kind(note: dict[str, Any]) -> str:
    """Return a model's type as llama.cpp names it: architecture and scheme."""
    return f"{note.get('architecture', 'a decoder')} {note.get('scheme', '')}".strip()


def _count(note: dict[str, Any], key: str) -> int:
    value = note.get(key)
    return value if isinstance(value, int) else 0


def _ids(found: Any) -> Iterator[int]:
    for number in found if isinstance(found, list) else ():
        if isinstance(number, int):
            yield number
