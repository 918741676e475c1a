"""Adapters, merged while the weights are read or unmerged in their own file, give equal logits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from device.manifest.gguf import read_header
from tests.fakes.adapters import tiny_adapter
from tests.fakes.families import tiny_family
from tests.fakes.models import tiny_llama
from tests.toolchain.quantize.conftest import Quantized, hugging_face_logits, llama_cpp_logits
from toolchain.errors import ArtifactError
from toolchain.models.lora import Merged, read_lora
from toolchain.models.weights import open_weights
from toolchain.quantize.gguf.adapter import convert_adapter

TOKENS = np.random.default_rng(2).integers(3, 500, 120).tolist()
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def merged_folder(base: Path, adapter: Path) -> Path:
    """Write the merged checkpoint in float32, beside the base's other files."""
    folder = base.with_name("merged")
    folder.mkdir()
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with open_weights(base) as weights:
        rows = Merged(weights, read_lora(adapter))
        found = {
            name: rows.rows(name, 0, tensor.rows).reshape(tensor.shape)
            for name, tensor in weights.tensors.items()
        }
    save_file(found, folder / "model.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["F16", "Q8_0", "Q4_K_M"])
def test_merging_while_reading_gives_the_merged_checkpoints_file(
    tmp_path: Path, quantized: Quantized, scheme: str
) -> None:
    base = tiny_llama(tmp_path / "model")
    adapter = tiny_adapter(tmp_path / "skill", base)
    ours = quantized(base, scheme, adapter=adapter)
    assert ours.record.figures["adapter"] == "skill"
    assert not list(tmp_path.rglob("*.safetensors"))[2:], "no merged checkpoint is written"
    raw = ours.file.read_bytes()
    assert raw == quantized(merged_folder(base, adapter), scheme).file.read_bytes()
    assert raw != quantized(base, scheme).file.read_bytes()


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("llama 2", {}),
    "rank-stabilised": ("qwen2.5", {"use_rslora": True}),
    "an alpha of its own": ("qwen3", {"alpha_pattern": {"v_proj": 20.0}}),
    "fused": ("phi-3", {"modules": FUSED}),
    "gemma 3": ("gemma 3", {"modules": ("q_proj", "v_proj")}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_unmerged_gives_the_logits_of_merged(
    tmp_path: Path, quantized: Quantized, case: str
) -> None:
    name, settings = CASES[case]
    base = tiny_family(name, tmp_path / "model", dtype="float32")
    adapter = tiny_adapter(tmp_path / "skill", base, **settings)
    file = convert_adapter(adapter, base, tmp_path / "skill.gguf")
    plain = quantized(base, "F16").file
    expected = hugging_face_logits(merged_folder(base, adapter), TOKENS)
    assert np.abs(llama_cpp_logits(plain, TOKENS, file) - expected).max() <= 3e-3
    assert np.abs(llama_cpp_logits(plain, TOKENS) - expected).max() > 0.05


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "model")
    header = read_header(
        convert_adapter(
            tiny_adapter(tmp_path / "skill", base, modules=("q_proj",)),
            base,
            tmp_path / "skill.gguf",
        )
    )
    assert header.metadata == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "skill",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    assert [(tensor.name, tensor.shape) for tensor in header.tensors][:2] == [
        ("blk.0.attn_q.weight.lora_a", (256, 4)),
        ("blk.0.attn_q.weight.lora_b", (4, 256)),
    ]


def test_an_adapter_for_another_base_leaves_no_file(tmp_path: Path, quantized: Quantized) -> None:
    base = tiny_llama(tmp_path / "model")
    adapter = tiny_adapter(tmp_path / "skill", base)
    other = tiny_llama(tmp_path / "other", intermediate=768)
    for make in (
        lambda: convert_adapter(adapter, other, tmp_path / "skill.gguf"),
        lambda: quantized(other, "Q8_0", adapter=adapter),
    ):
        with pytest.raises(
            ArtifactError, match=r"^adapter skill: made for another base: `model\.layers"
        ):
            make()
    assert not list(tmp_path.rglob("*.gguf*"))


def test_an_adapter_of_a_head_that_is_not_stored_is_refused(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "model")
    adapter = tiny_adapter(tmp_path / "skill", base, modules=("lm_head",))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    tensors = load_file(base / "model.safetensors")
    # A head that is the embedding's copy is not stored; one of its own is.
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ArtifactError,
        match=r"^adapter skill: changes `lm_head\.weight`, which has no place in the model file$",
    ):
        convert_adapter(adapter, base, tmp_path / "skill.gguf")
