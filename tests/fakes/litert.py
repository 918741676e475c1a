"""TFLite files of model folders, made for tests."""

from pathlib import Path
from typing import Any

from tests.toolchain.quantize.conftest import LABEL, checkpoint
from toolchain.artifacts import ModelFile
from toolchain.progress import Silent
from toolchain.quantize.gguf import NOTHING, Additions
from toolchain.quantize.tflite import quantize
from toolchain.recipe import QuantizeSpec


def quantized_tflite(
    folder: Path,
    out: Path,
    scheme: str = "fp32",
    *,
    context: int = 128,
    prefill: tuple[int, ...] = (16, 64),
    report: Any = None,
    adapter: Path | None = None,
    additions: Additions = NOTHING,
    **spec: Any,
) -> ModelFile:
    """Quantize a model folder to TFLite."""
    return quantize(
        checkpoint(folder, adapter),
        QuantizeSpec(tflite_scheme=scheme, prefill=prefill, **spec),
        LABEL,
        out,
        report or Silent(),
        context=context,
        additions=additions,
    )
