"""ONNX files of model folders, and a session of the stock library driven by hand: the reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.toolchain.quantize.conftest import LABEL, checkpoint
from toolchain.artifacts import ModelFile
from toolchain.progress import Silent
from toolchain.quantize.gguf import NOTHING, Additions
from toolchain.quantize.onnx import quantize
from toolchain.recipe import QuantizeSpec


def quantized_onnx(
    folder: Path,
    out: Path,
    scheme: str = "fp32",
    *,
    context: int = 128,
    report: Any = None,
    adapter: Path | None = None,
    additions: Additions = NOTHING,
    **spec: Any,
) -> ModelFile:
    """Quantize a model folder to ONNX."""
    return quantize(
        checkpoint(folder, adapter),
        QuantizeSpec(onnx_scheme=scheme, **spec),
        LABEL,
        out,
        report or Silent(),
        context=context,
        additions=additions,
    )


def session(file: Path) -> Any:
    """Return a stock session of a file on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def forced_logits(file: Path, tokens: Sequence[int], prefill: int) -> np.ndarray:
    """Return the logits after each token: `prefill` of them at once, the others one at a time.

    Keys and values grow by concatenation, as the library does it without a shared buffer.
    """
    opened = session(file)
    names = [output.name for output in opened.get_outputs()]
    past = {
        each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
        for each in opened.get_inputs()
        if each.name.startswith("past_key_values.")
    }
    rows: list[np.ndarray] = []
    for first, end in [(0, prefill), *((at, at + 1) for at in range(prefill, len(tokens)))]:
        feeds = {
            "input_ids": np.array([tokens[first:end]], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
        }
        found = dict(zip(names, opened.run(names, feeds | past), strict=True))
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        rows.extend(found["logits"][0])
    return np.array(rows)
