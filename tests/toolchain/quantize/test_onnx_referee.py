"""onnxruntime-genai opens the folder as it is, and its logits are ours.

It lives in an environment of its own: DEMITASSE_GENAI names its Python (docs/onnx.md).
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import stock_genai
from tests.fakes.models import tiny_qwen2
from tests.fakes.onnx_files import forced_logits, quantized_onnx

GENAI = os.environ.get("DEMITASSE_GENAI", "")
PREFILL = 40
TOKENS = [int(token) for token in np.random.default_rng(6).integers(3, 512, 100)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not GENAI,
        reason="set DEMITASSE_GENAI to a Python that has onnxruntime-genai (docs/onnx.md)",
    ),
]


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "int4_b32"])
def test_genai_computes_and_answers_as_we_do(tmp_path: Path, scheme: str) -> None:
    model = quantized_onnx(tiny_qwen2(tmp_path / "model"), tmp_path / "out", scheme)
    job = {"folder": str(model.path), "prefill": PREFILL, "tokens": TOKENS, "answer": 20}
    script = [GENAI, stock_genai.__file__, json.dumps(job), str(tmp_path / "out.npz")]
    subprocess.run(script, check=True, capture_output=True)
    found = np.load(tmp_path / "out.npz")

    expected = forced_logits(model.file, TOKENS, PREFILL)[PREFILL - 1 :]
    assert np.abs(found["logits"] - expected).max() <= 1e-5
    answer = found["answer"].tolist()
    after = forced_logits(model.file, [*TOKENS, *answer], len(TOKENS))[len(TOKENS) - 1 : -1]
    assert after.argmax(-1).tolist() == answer
