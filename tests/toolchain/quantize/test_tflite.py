"""The stage that writes TFLite files: storage and results of each scheme, companions, refusals."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.fakes.adapters import tiny_adapter
from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_llama, tiny_qwen2
from tests.fakes.stock_litert import interpreter, teacher_forced
from tests.toolchain.quantize.conftest import Make, Recorder, config, hugging_face_logits, tensors
from toolchain.errors import ArtifactError, ConfigError
from toolchain.models.lora import Merged, read_lora
from toolchain.models.weights import open_weights
from toolchain.quantize.matrices import Rows
from toolchain.quantize.tflite.schemes import Packer

SCHEMES = {"fp32": 32.0, "fp16": 16.0, "dynamic_wi8_afp32": 8.1, "dynamic_wi4_afp32_block32": 5.3}
"""Scheme → bits per weight of the tiny model, at most."""
TOKENS = [int(token) for token in np.random.default_rng(5).integers(3, 512, 96)]


def rounded(rows: np.ndarray, scheme: str) -> np.ndarray:
    """Return weights as a scheme keeps them, computed from its definition."""
    if scheme == "fp16":
        return rows.astype(np.float16).astype(np.float32)
    if scheme == "dynamic_wi8_afp32":
        scale = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / 127
        return np.rint(rows / scale) * scale
    blocks = rows.reshape(-1, 32)
    scale = (
        (np.maximum(np.abs(blocks).max(1, keepdims=True), 1e-6) / 7)
        .astype(np.float16)
        .astype(np.float32)
    )
    return (np.clip(np.rint(blocks / scale), -7, 7) * scale).reshape(rows.shape)


def in_scheme(folder: Path, scheme: str) -> None:
    """Round the weights of a model folder as a scheme does."""
    found = load_file(folder / "model.safetensors")
    for name, values in found.items():
        if values.ndim == 2:
            head = "embed" in name or "lm_head" in name
            found[name] = rounded(
                values, "dynamic_wi8_afp32" if head and "wi4" in scheme else scheme
            ).astype(np.float32)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.sampled(4)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_computes_with_the_weights_that_its_definition_gives(
    make: Make, tmp_path: Path, scheme: str
) -> None:
    folder = make("qwen2")
    model = quantized_tflite(folder, tmp_path / "out", scheme)
    assert model.record.figures["real_bpw"] <= SCHEMES[scheme]
    if scheme != "fp32":
        in_scheme(folder, scheme)
    expected, found = hugging_face_logits(folder, TOKENS)[64:], teacher_forced(model.file, TOKENS)
    activations = 0.06 if "dynamic" in scheme else 1e-4
    assert np.abs(found - expected).max() <= activations * max(1.0, np.abs(expected).std())


def test_rows_of_zeros_stay_zeros() -> None:
    for kind in ("INT8", "INT4"):
        rows = Rows(origin="w", first=0, type=kind, values=np.zeros((2, 64), np.float32))
        weights, scales = Packer().pack(rows)
        assert not weights.any()
        assert np.isfinite(scales.view(np.float32 if kind == "INT8" else np.float16)).all()


def test_the_signatures_are_those_of_litert_torch(make: Make, tmp_path: Path) -> None:
    file = quantized_tflite(make("qwen2"), tmp_path / "out", prefill=(8, 32)).file
    found = interpreter(file).get_signature_list()
    caches = [f"kv_cache_{part}_{layer}" for layer in range(2) for part in "kv"]
    assert sorted(found) == ["decode", "prefill_32", "prefill_8"]
    assert sorted(found["decode"]["inputs"]) == sorted([*caches, "tokens", "input_pos", "mask"])
    assert sorted(found["decode"]["outputs"]) == sorted([*caches, "logits"])
    assert sorted(found["prefill_8"]["outputs"]) == sorted(caches)


@pytest.mark.slow
def test_signatures_share_their_weights(make: Make, tmp_path: Path) -> None:
    one = quantized_tflite(make(), tmp_path / "one", prefill=(8,)).file.stat().st_size
    three = quantized_tflite(make(), tmp_path / "three", prefill=(8, 16, 32)).file.stat().st_size
    assert three - one < 0.02 * one


@pytest.mark.slow
def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    tied, untied = (
        quantized_tflite(
            tiny_qwen2(tmp_path / f"model {tied}", tied=tied), tmp_path / f"out {tied}"
        )
        for tied in (True, False)
    )
    assert (
        untied.record.figures["weights_bytes"] - tied.record.figures["weights_bytes"]
        == 512 * 256 * 4
    )


def test_the_same_checkpoint_gives_the_same_bytes(make: Make, tmp_path: Path) -> None:
    first, second = (
        quantized_tflite(make(), tmp_path / out, "dynamic_wi8_afp32").file for out in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_an_adapter_is_merged_while_weights_are_read(make: Make, tmp_path: Path) -> None:
    folder = make()
    adapter = tiny_adapter(tmp_path / "adapter", folder)
    merged = quantized_tflite(folder, tmp_path / "merged", adapter=adapter).file
    with open_weights(folder) as weights:
        joined = Merged(weights, read_lora(adapter))
        whole = {
            name: joined.rows(name, 0, tensor.rows).reshape(tensor.shape)
            for name, tensor in weights.tensors.items()
        }
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    assert quantized_tflite(folder, tmp_path / "whole").file.read_bytes() == merged.read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    folder = tiny_llama(
        tmp_path / "model",
        hidden=1024,
        intermediate=4096,
        layers=3,
        heads=8,
        kv_heads=8,
        dtype="bfloat16",
    )
    quantized_tflite(folder, tmp_path / "warm", "fp32")
    tracemalloc.start()
    model = quantized_tflite(folder, tmp_path / "out", "dynamic_wi8_afp32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.record.figures["size_bytes"] > 50e6
    assert peak < 0.5 * model.record.figures["size_bytes"]


def test_what_a_board_needs_to_know_is_in_the_figures_and_in_the_file(
    make: Make, tmp_path: Path
) -> None:
    model = quantized_tflite(make("qwen2"), tmp_path / "out", "dynamic_wi8_afp32", context=100)
    expected = {
        "file": "tiny-model-1.3M-v1.0-dynamic_wi8_afp32.tflite",
        "scheme": "dynamic_wi8_afp32",
        "context": 100,
        "stop_ids": [2],
        "n_vocab": 512,
        "kv_bytes_per_token": 2 * 2 * 2 * 64 * 4,
        "nominal_bpw": 8.0,
        "engines": ["litert", "tflite-runtime"],
    }
    assert {key: model.record.figures[key] for key in expected} == expected
    noted = model.file.read_bytes()
    assert b'"stop_ids": [2]' in noted
    assert b'"licence": "Apache-2.0"' in noted


def test_tokenizer_and_template_lie_beside_the_file(make: Make, tmp_path: Path) -> None:
    folder = make()
    out = quantized_tflite(folder, tmp_path / "out").path
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not list(out.glob(".*"))


def test_progress_ends_where_the_file_does(make: Make, tmp_path: Path) -> None:
    report = Recorder()
    model = quantized_tflite(make(), tmp_path / "out", "dynamic_wi8_afp32", report=report)
    assert report.steps[-1][:2] == (model.record.figures["weights_bytes"],) * 2
    assert report.notes[-1].startswith(f"{model.file.name}: ")


def sparse(folder: Path, weights: int) -> Path:
    """Make a folder whose embedding claims many zero weights in a sparse file."""
    rows = weights // 256
    config(vocab_size=rows)(folder)
    header = {
        "model.embed_tokens.weight": {
            "dtype": "BF16",
            "shape": [rows, 256],
            "data_offsets": [0, rows * 512],
        },
    }
    end = rows * 512
    for name, values in load_file(folder / "model.safetensors").items():
        if "embed" not in name:
            header[name] = {
                "dtype": "F32",
                "shape": list(values.shape),
                "data_offsets": [end, end + values.nbytes],
            }
            end += values.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return folder


TOO_LARGE = {
    ("fp32", 600_000_000): "`fp16` takes 1.20 GB",
    ("fp32", 1_200_000_000): "`dynamic_wi8_afp32` takes 1.20 GB",
    ("dynamic_wi8_afp32", 2_300_000_000): 'use `formats = ["gguf"]`, which has no such limit',
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("scheme", "weights"), TOO_LARGE)
def test_more_than_two_gigabytes_are_refused_with_what_would_fit(
    tmp_path: Path, scheme: str, weights: int
) -> None:
    folder = sparse(tiny_qwen2(tmp_path / "model"), weights)
    with pytest.raises(ArtifactError) as caught:
        quantized_tflite(folder, tmp_path / "out", scheme)
    assert caught.value.message.startswith(f"{scheme}: ")
    assert caught.value.message.endswith("GB, a TFLite file holds 2.15 GB")
    assert caught.value.hint == TOO_LARGE[scheme, weights]
    assert list((tmp_path / "out").glob("*.tflite")) == []


def nan(found: dict[str, Any]) -> None:
    found["model.layers.1.mlp.down_proj.weight"][3, 7] = float("nan")


def huge(found: dict[str, Any]) -> None:
    found["model.layers.1.mlp.down_proj.weight"][3, 7] = 1e6


REFUSED: dict[str, tuple[Callable[[Path], None], str, dict[str, Any], str]] = {
    "nan": (
        tensors(nan),
        "fp32",
        {},
        "model.safetensors: tensor `model.layers.1.mlp.down_proj.weight`: "
        "a weight is NaN or infinite",
    ),
    "too large": (
        tensors(huge),
        "fp16",
        {},
        "model.safetensors: tensor `model.layers.1.mlp.down_proj.weight`: "
        "a weight is too large for FLOAT16",
    ),
    "context": (
        config(),
        "fp32",
        {"context": 513},
        "package: context: the model has 512 tokens of context, `513` asked",
    ),
    "prefill": (
        config(),
        "fp32",
        {"prefill": (200,)},
        "quantize: prefill: lengths from 2 to the context of 128 are possible, not (200,)",
    ),
    "one": (
        config(),
        "fp32",
        {"prefill": (1,)},
        "quantize: prefill: lengths from 2 to the context of 128 are possible, not (1,)",
    ),
    "scheme": (config(), "int8", {}, "quantize: unknown TFLite scheme `int8`"),
    "rows": (
        lambda folder: None,
        "dynamic_wi4_afp32_block32",
        {},
        "int4: rows of 40 are not divisible by 32",
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, case: str) -> None:
    spoil, scheme, settings, message = REFUSED[case]
    shape = {"hidden": 40, "heads": 4, "kv_heads": 2} if case == "rows" else {}
    folder = tiny_llama(tmp_path / "model", **shape)
    spoil(folder)
    with pytest.raises((ArtifactError, ConfigError)) as caught:
        quantized_tflite(folder, tmp_path / "out", scheme, **settings)
    assert caught.value.message == message
    assert not list((tmp_path / "out").glob("*tflite*"))
