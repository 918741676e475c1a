"""TFLite files through LiteRT's interpreter.

The library is ai-edge-litert, or tflite-runtime 2.14 for files that it computes correctly.

This module is imported by `device.engine.load` only, when a file is loaded. CompiledModel is not
used (docs/adr/0010).
"""

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import numpy as np

from device.engine.base import Description, Settings
from device.engine.lite.cells import LiteCells
from device.engine.machine import default_threads
from device.engine.noted import NotedEngine, count_of, kind_of
from device.engine.sequence import ReadSequence
from device.engine.states import BATCH
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.tflite import Header, Tensor, foreign_operators, legacy_fault, read_header


class LiteEngine(NotedEngine):
    """A model in a LiteRT interpreter with one sequence."""

    _cells: LiteCells

    def __init__(self, path: Path, header: Header, settings: Settings) -> None:
        interpreter, name, version = _interpreter()
        if name == LEGACY and (fault := legacy_fault(header) or _numpy_fault()):
            raise DeviceError(
                "bad_model",
                f"`{path.name}` is not run: {fault}",
                hint="use ai-edge-litert, or another scheme",
            )

        super().__init__(path.parent, header.note)
        size = sum(tensor.size for tensor in header.constants)
        threads = settings.threads or default_threads(size)
        self._path, self._header, self._interpreter = path, header, interpreter
        self._open(threads)
        self._use_cores(settings.cpus)
        self._context = settings.context or self._cells.context
        self._description = Description(
            engine=name,
            version=version,
            model_filename=path.name,
            model_type=kind_of(header.note),
            model_size=size,
            model_n_params=count_of(header.note, "parameters"),
            context_train=count_of(header.note, "context_train"),
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
    def state_kind(self) -> str:
        """The library, and how prompts are cut into pieces."""
        loaded = self._description
        shape = f"pieces {self._cells.pieces} batch {BATCH} context {self._cells.context}"
        return f"{loaded.engine} {loaded.version} kv f32 {shape}"

    def new_context(self) -> None:
        """Return None: each interpreter packs the weights anew, so nothing would be shared."""

    def _open(self, threads: int) -> None:
        try:
            interpreter = self._interpreter(str(self._path), num_threads=threads)
            self._cells = LiteCells(interpreter, self._header)
        except (RuntimeError, ValueError, SystemError) as error:
            raise DeviceError(
                "bad_model", f"`{self._path.name}` cannot be loaded: {error}"[:300]
            ) from error
        self._sequence = ReadSequence(self._cells)


LITERT, LEGACY = "litert", "tflite-runtime"
"""Names of the engines, as manifests spell them."""


def streamed_bytes(path: Path) -> int:
    """Return the bytes of a TFLite file; how many of them one token reads is not known."""
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
