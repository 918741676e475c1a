"""TensorFlow's interpreter (in the Python that DEMITASSE_REFEREE names) agrees with our files."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import stock_litert
from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_qwen2
from tests.toolchain.quantize.conftest import hugging_face_logits

REFEREE = os.environ.get("DEMITASSE_REFEREE", "")
PREFILL = 64
TOKENS = [int(token) for token in np.random.default_rng(6).integers(3, 512, 128)]
FURTHEST = 1e-4
"""How far a logit may be from LiteRT's, whatever the scheme; logits of this model spread by 1."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REFEREE, reason="set DEMITASSE_REFEREE to a Python that has tensorflow (docs/tflite.md)"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen2(tmp_path_factory.mktemp("referee") / "model", initializer_range=0.1)


def by_tensorflow(file: Path) -> np.ndarray:
    out = file.with_suffix(".npy")
    job = ["tensorflow", file, str(PREFILL), json.dumps(TOKENS), out]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [REFEREE, stock_litert.__file__, *job], env=quiet, check=True, capture_output=True
    )
    return np.asarray(np.load(out))


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "dynamic_wi8_afp32"])
def test_tensorflow_computes_what_litert_computes(
    folder: Path, tmp_path: Path, scheme: str
) -> None:
    file = quantized_tflite(folder, tmp_path / "out", scheme, prefill=(PREFILL,)).file
    theirs, ours = by_tensorflow(file), stock_litert.teacher_forced(file, TOKENS, PREFILL)
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() <= FURTHEST
    assert (theirs.argmax(-1) == ours.argmax(-1)).all()
    if scheme == "fp32":
        assert np.abs(theirs - hugging_face_logits(folder, TOKENS)[PREFILL:]).max() <= FURTHEST
