"""What `fit` can ask of a model file: its context, and what it takes and gives on a target.

One function a format; no weight is read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device.manifest import gguf as gguf_files
from device.manifest import onnx as onnx_files
from device.manifest import tflite as tflite_files
from device.manifest.onnx_contract import context_of, contract_fault
from toolchain.errors import ArtifactError
from toolchain.forecast import (
    Forecast,
    forecast,
    lite_sizes,
    tflite_forecast,
    trained_context,
    usual_context,
)
from toolchain.forecast_onnx import onnx_forecast
from toolchain.models.gguf_parts import whole_header
from toolchain.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """A model that can be asked what it takes."""

    what: str
    """Its file or folder, and as what it was weighed."""
    usual_context: int
    """Tokens it is served with where nobody says how many."""
    trained_context: int
    """Tokens that it was trained for, or that its file has room for; 0 where that is not known."""
    forecast: Callable[[Target, int, int], Forecast]
    """Target, tokens of context, threads (0: the fastest known) → what it takes and gives there."""


def weigh_gguf(file: Path, *, context: int = 0, adapter_bytes: int = 0) -> Weighed:
    """Return what a GGUF file takes, with an adapter of so many bytes beside it.

    Of a model in several parts it is the whole.
    """
    header = whole_header(file)
    return weigh_header(header, file.name, context=context, adapter_bytes=adapter_bytes)


def weigh_header(
    header: gguf_files.Header, what: str, *, context: int = 0, adapter_bytes: int = 0
) -> Weighed:
    """Return the memory that a GGUF file with this header takes; a context of 0 is the usual
    one.
    """
    trained = trained_context(header)
    return Weighed(
        what=what,
        usual_context=context or usual_context(trained),
        trained_context=trained,
        forecast=lambda board, tokens, threads: forecast(
            header, board, tokens, threads, beside_bytes=adapter_bytes
        ),
    )


def weigh_onnx(file: Path, context: int = 0) -> Weighed:
    """Return what an ONNX file takes; raise ArtifactError for one that is no decoder."""
    header = onnx_files.read_header(file)
    if fault := contract_fault(header):
        raise ArtifactError(
            f"{file.name}: no decoder that is run: {fault}",
            hint='`demitasse quantize` with `formats = ["onnx"]` makes one',
        )
    most = context_of(header)
    return Weighed(
        what=file.name,
        usual_context=min(context, most) or most,
        trained_context=most,
        forecast=lambda board, tokens, threads: onnx_forecast(header, board, tokens),
    )


def weigh_tflite(file: Path) -> Weighed:
    """Return what a TFLite file takes; raise ArtifactError for one that is no decoder."""
    header = tflite_files.read_header(file)
    context = lite_sizes(header).context
    if not context:
        raise ArtifactError(
            f"{file.name}: no decoder: it has no signature `decode` with a mask",
            hint="a decoder has the signatures `prefill_<n>` and `decode`, "
            "as litert-torch writes them",
        )
    return Weighed(
        what=file.name,
        usual_context=context,
        trained_context=context,
        forecast=lambda board, tokens, threads: tflite_forecast(header, board),
    )
