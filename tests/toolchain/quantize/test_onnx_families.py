"""Every family as an ONNX file: ONNX Runtime computes as Hugging Face, 256 steps after a prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.families import tiny_family
from tests.fakes.onnx_files import forced_logits, quantized_onnx
from tests.toolchain.quantize.conftest import hugging_face_logits
from tests.toolchain.quantize.test_tflite_families import CASES as KNOWN
from tests.toolchain.quantize.test_tflite_families import PREFILL, STEPS, Kept, tokens_of
from toolchain.errors import ArtifactError

_WIDE = {
    "hidden_size": 256,
    "head_dim": 64,
    "initializer_range": 0.1,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 256,
        "short_factor": [1.0 + 0.05 * pair for pair in range(24)],
        "long_factor": [2.0 + pair for pair in range(24)],
    },
}
"""Phi-4-mini with heads as wide as ONNX Runtime can turn: 48 of 64 numbers."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: case for name, case in KNOWN.items() if not name.startswith("phi-4")},
    "phi-4-mini beyond its short context": ("phi-4-mini", _WIDE),
}


def folder_of(kept: Kept, case: str) -> Path:
    name, changes = CASES[case]
    # Where nothing differs, TFLite's tests made the same model.
    label = f"onnx {case}" if case not in KNOWN or name == "phi-4-mini" else f"tflite {case}"
    return kept(label, lambda folder: tiny_family(name, folder, **changes))


@pytest.mark.sampled(14)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_hugging_face(kept: Kept, tmp_path: Path, case: str) -> None:
    folder = folder_of(kept, case)
    model = quantized_onnx(folder, tmp_path / "out", context=PREFILL + STEPS)
    tokens = tokens_of(model.figures.n_vocab, PREFILL + STEPS)
    expected = hugging_face_logits(folder, tokens)
    found = forced_logits(model.file, tokens, PREFILL)
    assert np.abs(found - expected).max() <= 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    assert len(set(expected.argmax(-1))) > 20, "a model that always says the same proves nothing"


def test_short_text_takes_the_factors_for_short_text(kept: Kept, tmp_path: Path) -> None:
    folder = folder_of(kept, "phi-4-mini beyond its short context")
    model = quantized_onnx(folder, tmp_path / "out", context=256)
    tokens = tokens_of(model.figures.n_vocab, 128)
    found = forced_logits(model.file, tokens, PREFILL)
    assert np.abs(found - hugging_face_logits(folder, tokens)).max() <= 1e-4


REFUSED: dict[str, str] = {
    "gemma 2": "config.json: `gemma2` has no ONNX graph",
    "granite 3": "config.json: `granite` has no ONNX graph",
    "smollm3": "config.json: `smollm3` has no ONNX graph",
    "phi-4-mini": "config.json: ONNX Runtime turns heads in steps of 16, not `24` of their numbers",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", REFUSED)
def test_a_family_without_a_graph_is_refused(kept: Kept, tmp_path: Path, name: str) -> None:
    build: Callable[[Path], Any] = lambda folder: tiny_family(name, folder)  # noqa: E731
    folder = kept(f"tflite {name}", build)
    with pytest.raises(ArtifactError) as caught:
        quantized_onnx(folder, tmp_path / "out")
    assert caught.value.message == REFUSED[name]
    assert list((tmp_path / "out").glob("*.onnx*")) == []
