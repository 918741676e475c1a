"""Every family as a TFLite file: LiteRT computes as Hugging Face, 256 steps after the prompt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.families import tiny_family
from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_llama
from tests.fakes.stock_litert import teacher_forced
from tests.toolchain.quantize.conftest import hugging_face_logits
from toolchain.errors import ArtifactError

Kept = Callable[[str, Callable[[Path], Any]], Path]
PREFILL, STEPS = 64, 256
LONGER: dict[str, Any] = {"max_position_embeddings": 512, "initializer_range": 0.1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, LONGER)
        for name in (
            "llama 2",
            "llama 2 with linear scaling",
            "llama 3.2",
            "smollm2",
            "mistral",
            "qwen2.5",
            "qwen3",
            "gemma 3",
            "phi-3",
        )
    },
    "mistral with a window": ("mistral", {**LONGER, "sliding_window": 48}),
    "llama with biases": ("llama 2", {**LONGER, "attention_bias": True, "mlp_bias": True}),
    "gemma 3 with capped logits": ("gemma 3", {**LONGER, "final_logit_softcapping": 5.0}),
    "phi-4-mini beyond its short context": ("phi-4-mini", {"initializer_range": 0.1}),
}


def tokens_of(vocabulary: int, count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(4).integers(3, vocabulary, count)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_hugging_face(kept: Kept, tmp_path: Path, case: str) -> None:
    name, changes = CASES[case]
    folder = kept(f"tflite {case}", lambda folder: tiny_family(name, folder, **changes))
    model = quantized_tflite(folder, tmp_path / "out", context=PREFILL + STEPS, prefill=(PREFILL,))
    tokens = tokens_of(model.record.figures["n_vocab"], PREFILL + STEPS)
    expected, found = (
        hugging_face_logits(folder, tokens)[PREFILL:],
        teacher_forced(model.file, tokens, PREFILL),
    )
    assert len(found) == STEPS
    assert np.abs(found - expected).max() <= 1e-4
    assert (found.argmax(-1) == expected.argmax(-1)).all()
    assert len(set(expected.argmax(-1))) > 20, "a model that always says the same proves nothing"


def test_short_text_takes_the_factors_for_short_text(kept: Kept, tmp_path: Path) -> None:
    folder = kept("tflite phi-4-mini", lambda folder: tiny_family("phi-4-mini", folder))
    model = quantized_tflite(folder, tmp_path / "out", context=256, prefill=(PREFILL,))
    tokens = tokens_of(model.record.figures["n_vocab"], 256)
    expected, found = (
        hugging_face_logits(folder, tokens)[PREFILL:],
        teacher_forced(model.file, tokens, PREFILL),
    )
    assert np.abs(found - expected).max() <= 1e-4


def test_pieces_of_a_prompt_give_what_the_whole_gives(tmp_path: Path) -> None:
    file = quantized_tflite(tiny_llama(tmp_path / "model"), tmp_path / "out", prefill=(8, 32)).file
    tokens = tokens_of(512, 60)
    assert (
        np.abs(teacher_forced(file, tokens, 8)[24:] - teacher_forced(file, tokens, 32)).max() < 1e-5
    )


@pytest.mark.parametrize(
    ("name", "known"), [("gemma 2", "gemma2"), ("granite 3", "granite"), ("smollm3", "smollm3")]
)
def test_a_family_without_a_graph_is_refused(
    kept: Kept, tmp_path: Path, name: str, known: str
) -> None:
    folder = kept(f"tflite {name}", lambda folder: tiny_family(name, folder))
    with pytest.raises(ArtifactError) as caught:
        quantized_tflite(folder, tmp_path / "out")
    assert caught.value.message == f"config.json: `{known}` has no TFLite graph"
    assert list((tmp_path / "out").glob("*.tflite")) == []
