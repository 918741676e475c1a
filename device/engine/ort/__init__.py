"""ONNX files through plain ONNX Runtime, with a loop of our own around its session.

This module is imported by `device.engine.load` only, when a file is loaded. onnxruntime-genai is
not used: it has no wheels for Python 3.10, no prefix cache of ours, and no way to cancel.
"""

from pathlib import Path
from typing import Any

import onnxruntime

from device.engine.base import Description, Settings
from device.engine.machine import default_threads
from device.engine.noted import NotedEngine, count_of, kind_of
from device.engine.ort.cells import PIECE, OrtCells, Sizes
from device.engine.pages import collapse
from device.engine.sequence import ReadSequence
from device.engine.states import BATCH
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.onnx import Header, read_header
from device.manifest.onnx_contract import context_of, contract_fault, looked_up

ENGINE = "ort"
"""Name of the engine, as manifests spell it."""
_ERRORS_ONLY = 3
"""Severity from which on the library writes to stderr."""


class OrtEngine(NotedEngine):
    """A model in a session of ONNX Runtime with one sequence."""

    _cells: OrtCells

    def __init__(self, path: Path, header: Header, settings: Settings) -> None:
        """Load the file into a session."""
        super().__init__(path.parent, header.note)
        self._path = path
        self._sizes = _sizes(header)
        self._context = settings.context or self._sizes.context
        if self._context > self._sizes.context:
            raise DeviceError(
                "bad_model",
                f"`{path.name}` has {self._sizes.context} tokens of context, "
                f"{self._context} are asked",
            )

        size = sum(tensor.size for tensor in header.external)
        threads = settings.threads or default_threads(size)
        # The session's threads run where this one may run when they are made.
        self._use_cores(settings.cpus)
        self._open(threads)
        self._description = Description(
            engine=ENGINE,
            version=onnxruntime.__version__,
            model_filename=path.name,
            model_type=kind_of(header.note),
            model_size=size,
            model_n_params=count_of(header.note, "parameters"),
            context_train=count_of(header.note, "context_train"),
            n_batch=BATCH,
            n_ubatch=PIECE,
            threads=threads,
            threads_batch=threads,
            kv_type="f32",
        )

    @property
    def state_kind(self) -> str:
        """The library, and how prompts are cut into pieces."""
        loaded = self._description
        return f"{loaded.engine} {loaded.version} kv f32 piece {PIECE} batch {BATCH}"

    def new_context(self) -> None:
        """Return None: the threads of a session are for one evaluation at a time."""

    def _open(self, threads: int) -> None:
        session = _session(self._path, threads)
        self._cells = OrtCells(session, self._sizes, self._context)
        collapse()
        self._sequence = ReadSequence(self._cells)


def streamed_bytes(path: Path) -> int:
    """Return the bytes of an ONNX file that one token reads: of a table of its own, one row."""
    header = read_header(path)
    return sum(tensor.size for tensor in header.external) - looked_up(header)


def load(path: Path, settings: Settings) -> OrtEngine:
    """Load an ONNX file that is a sound decoder in onnxruntime-genai's contract.

    Raise DeviceError `bad_model` with the reason.
    """
    try:
        header = read_header(path)
    except ManifestError as error:
        raise DeviceError("bad_model", str(error)) from error

    if fault := contract_fault(header):
        raise DeviceError("bad_model", f"`{path.name}` is not a decoder that is run: {fault}")
    if settings.adapter:
        raise DeviceError(
            "bad_model",
            f"`{path.name}`: an adapter goes into an ONNX file when it is made, not beside it",
        )

    return OrtEngine(path, header, settings)


def _sizes(header: Header) -> Sizes:
    key = header.inputs["past_key_values.0.key"].shape
    return Sizes(
        layers=sum(name.startswith("past_key_values.") for name in header.inputs) // 2,
        kv_heads=int(key[1]),
        width=int(key[3]),
        n_vocab=int(header.outputs["logits"].shape[2]),
        context=context_of(header),
    )


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that spin while they wait burn the cores of a board that has other work too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # Its fallback to other providers would print to stdout, which is for data.
        return onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # the library's own ones have no narrower parent
        raise DeviceError("bad_model", f"`{path.name}` cannot be loaded: {error}"[:300]) from error
