"""The stage that writes ONNX files: storage and results of each scheme, companions, refusals."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from device.manifest.onnx import read_header
from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import tiny_llama, tiny_qwen2
from tests.fakes.onnx_files import forced_logits, quantized_onnx, session
from tests.toolchain.quantize.conftest import Make, Recorder, config, hugging_face_logits, tensors
from toolchain.errors import ArtifactError, ConfigError
from toolchain.models.lora import Merged, read_lora
from toolchain.models.weights import open_weights
from toolchain.quantize.four_bits import Codes
from toolchain.quantize.matrices import I4, Rows
from toolchain.quantize.onnx.schemes import Packer, from_q4_0
from toolchain.recipe import QuantizeSpec
from toolchain.tools import ggml

TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 512, 96)]
BITS = {"fp32": 32.0, "fp16": 16.01, "int4_b32": 5.03}


def dequantized(rows: np.ndarray) -> np.ndarray:
    """Return rows as Q4_0 holds them, by ggml's own definition: (code − 8) · scale."""
    blocks = ggml.pack(ggml.Type.Q4_0, rows).reshape(-1, 18)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return ((codes.astype(np.float32) - 8) * scales).reshape(rows.shape)


def in_scheme(folder: Path, scheme: str) -> None:
    """Round the weights of a model folder as a scheme does."""
    found = load_file(folder / "model.safetensors")
    for name, values in found.items():
        if values.ndim == 2:
            rounded = values.astype(np.float16) if scheme == "fp16" else dequantized(values)
            found[name] = rounded.astype(np.float32)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("scheme", BITS)
def test_a_scheme_computes_with_the_weights_that_its_definition_gives(
    make: Make, tmp_path: Path, scheme: str
) -> None:
    folder = make("qwen2")
    model = quantized_onnx(folder, tmp_path / "out", scheme)
    assert model.figures.real_bpw <= BITS[scheme]
    if scheme != "fp32":
        in_scheme(folder, scheme)
    expected = hugging_face_logits(folder, TOKENS)
    found = forced_logits(model.file, TOKENS, 64)
    # MatMulNBits rounds activations to 8 bits.
    bound = 0.15 * np.abs(expected).std() if scheme == "int4_b32" else 1e-4
    assert np.abs(found - expected).max() <= bound


def test_codes_and_scales_are_those_of_q4_0_in_another_order_of_nibbles() -> None:
    rows = np.random.default_rng(3).standard_normal((5, 96)).astype(np.float32)
    codes, scales = from_q4_0(ggml.pack(ggml.Type.Q4_0, rows))
    apart = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1, 32).astype(np.float32)
    restored = (apart - 8) * scales.view(np.float32).reshape(-1, 1)
    assert (restored.reshape(rows.shape) == dequantized(rows)).all()


def test_learned_codes_are_stored_as_they_were_learned() -> None:
    rows = np.random.default_rng(4).standard_normal((6, 64)).astype(np.float32)
    learned = ggml.pack(ggml.Type.Q4_0, rows * 2)
    packer = Packer(codes=Codes(learned={"w": learned}))
    kept = packer.pack(Rows(origin="w", first=2, type=I4, values=rows[2:4]))
    other = packer.pack(Rows(origin="v", first=2, type=I4, values=rows[2:4]))
    expected = from_q4_0(ggml.pack(ggml.Type.Q4_0, rows[2:4] * 2))
    assert (kept[0] == expected[0]).all()
    assert (kept[1] == expected[1]).all()
    assert (other[1] != kept[1]).any()


def test_importance_decides_which_columns_are_rounded_well() -> None:
    rows = np.random.default_rng(5).standard_normal((64, 32)).astype(np.float32)
    weights = np.where(np.arange(32) < 4, 1000.0, 1.0).astype(np.float32)
    plain, weighed = (
        from_q4_0(
            Codes(importance=importance).blocks(Rows(origin="w", first=0, type=I4, values=rows))
        )
        for importance in ({}, {"w": weights})
    )

    def error(packed: tuple[np.ndarray, np.ndarray]) -> float:
        codes = np.stack([packed[0] & 15, packed[0] >> 4], axis=1).reshape(-1, 32)
        restored = (codes.astype(np.float32) - 8) * packed[1].view(np.float32).reshape(-1, 1)
        return float(((restored - rows)[:, :4] ** 2).mean())

    assert error(weighed) < error(plain)


def test_inputs_and_outputs_are_those_of_onnxruntime_genai(make: Make, tmp_path: Path) -> None:
    model = quantized_onnx(make("qwen2"), tmp_path / "out", "int4_b32")
    opened = session(model.file)
    caches = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    inputs = {each.name for each in opened.get_inputs()}
    assert inputs == {"input_ids", "attention_mask", *caches}
    assert {each.name for each in opened.get_overridable_initializers()} == {"first_logits"}
    outputs = [each.name.replace("present", "past_key_values") for each in opened.get_outputs()]
    assert set(outputs) == {"logits", *caches}

    described = json.loads((model.path / "genai_config.json").read_text())["model"]
    assert described["decoder"]["filename"] == model.file.name
    assert (described["vocab_size"], described["eos_token_id"]) == (512, [2])


def test_the_weights_lie_in_a_file_that_the_graph_names(make: Make, tmp_path: Path) -> None:
    model = quantized_onnx(make(), tmp_path / "out", "int4_b32")
    assert model.data and model.data.name == f"{model.file.name}.data"
    assert model.file.stat().st_size < 40_000
    size = model.file.stat().st_size + model.data.stat().st_size
    assert model.figures.size_bytes == size
    assert model.data.stat().st_size >= model.figures.weights_bytes


@pytest.mark.parametrize("scheme", ["fp32", "int4_b32"])
def test_a_tied_head_is_stored_once(tmp_path: Path, scheme: str) -> None:
    tied, untied = (
        quantized_onnx(
            tiny_qwen2(tmp_path / f"model {tied}", tied=tied), tmp_path / f"out {tied}", scheme
        ).figures.weights_bytes
        for tied in (True, False)
    )
    assert untied - tied == 512 * 256 * {"fp32": 4, "int4_b32": 5 / 8}[scheme]


def test_the_same_checkpoint_gives_the_same_bytes(make: Make, tmp_path: Path) -> None:
    one, other = (quantized_onnx(make(), tmp_path / out, "int4_b32") for out in ("a", "b"))
    assert one.data and other.data
    assert one.file.read_bytes() == other.file.read_bytes()
    assert one.data.read_bytes() == other.data.read_bytes()


def test_an_adapter_is_merged_while_weights_are_read(make: Make, tmp_path: Path) -> None:
    folder = make()
    adapter = tiny_adapter(tmp_path / "adapter", folder)
    merged = quantized_onnx(folder, tmp_path / "merged", adapter=adapter)
    with open_weights(folder) as weights:
        joined = Merged(weights, read_lora(adapter))
        whole = {
            name: joined.rows(name, 0, tensor.rows).reshape(tensor.shape)
            for name, tensor in weights.tensors.items()
        }
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    again = quantized_onnx(folder, tmp_path / "whole")
    assert merged.data and again.data
    assert again.data.read_bytes() == merged.data.read_bytes()


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
    quantized_onnx(folder, tmp_path / "warm", "fp32")
    tracemalloc.start()
    model = quantized_onnx(folder, tmp_path / "out", "int4_b32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.figures.size_bytes > 30e6
    assert peak < 0.5 * model.figures.size_bytes


def test_offsets_beyond_two_gigabytes_are_written_and_read(tmp_path: Path) -> None:
    """A graph of more than 2 GB of data, all of it but the last tensor in a hole of the file."""
    import onnxruntime

    from toolchain.quantize.matrices import F32, Matrix, Promise
    from toolchain.quantize.onnx.blueprint import Blueprint

    blueprint = Blueprint("big.onnx.data")
    hole = Promise(Matrix(("hole",), 1 << 15, 1 << 15), F32, shape=(1 << 15, 1 << 15))
    blueprint.promised(hole, hole.shape)
    tokens = blueprint.input("input_ids", "INT64", ("batch", "sequence"))
    last = blueprint.whole("last", np.array([[1.5], [2.5]], np.float32))
    output = blueprint.output("logits", ("batch", "sequence", 1))
    blueprint.node("Gather", [last, tokens], outputs=[output])
    with (tmp_path / "big.onnx.data").open("wb") as stream:
        stream.truncate(blueprint.data_bytes)
        for place, content in blueprint.contents():
            assert place > 1 << 31
            stream.seek(place)
            stream.write(content)
    (tmp_path / "big.onnx").write_bytes(blueprint.serialized({}))

    header = read_header(tmp_path / "big.onnx")
    assert header.data_size > 1 << 32
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = onnxruntime.InferenceSession(
        str(tmp_path / "big.onnx"), options, providers=["CPUExecutionProvider"]
    )
    found = opened.run(None, {"input_ids": np.array([[1, 0]], np.int64)})[0]
    assert found[0, :, 0].tolist() == [2.5, 1.5]


def test_what_a_board_needs_to_know_is_in_the_figures_and_in_the_file(
    make: Make, tmp_path: Path
) -> None:
    model = quantized_onnx(make("qwen2"), tmp_path / "out", "int4_b32", context=100)
    expected = {
        "file": "tiny-model-1.3M-v1.0-int4_b32.onnx",
        "data_file": "tiny-model-1.3M-v1.0-int4_b32.onnx.data",
        "scheme": "int4_b32",
        "context": 100,
        "stop_ids": [2],
        "n_vocab": 512,
        "kv_bytes_per_token": 2 * 2 * 2 * 64 * 4,
        "kv_type": "f32",
        "nominal_bpw": 5.0,
    }
    assert {key: model.record.figures[key] for key in expected} == expected
    note = read_header(model.file).note
    assert (note["stop_ids"], note["licence"], note["context"]) == ([2], "Apache-2.0", 100)


def test_tokenizer_and_template_lie_beside_the_file(make: Make, tmp_path: Path) -> None:
    folder = make()
    out = quantized_onnx(folder, tmp_path / "out").path
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not list(out.glob(".*"))


def test_progress_ends_where_the_data_does(make: Make, tmp_path: Path) -> None:
    report = Recorder()
    model = quantized_onnx(make(), tmp_path / "out", "int4_b32", report=report)
    assert report.steps[-1][:2] == (model.figures.weights_bytes,) * 2
    assert report.notes[-1].startswith(f"{model.file.name}: ")


def nan(found: dict[str, Any]) -> None:
    found["model.layers.1.mlp.down_proj.weight"][3, 7] = float("nan")


def huge(found: dict[str, Any]) -> None:
    found["model.layers.1.mlp.down_proj.weight"][3, 7] = 1e6


REFUSED: dict[str, tuple[Callable[[Path], None], str, dict[str, Any], str]] = {
    "nan": (
        tensors(nan),
        "int4_b32",
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
    "scheme": (config(), "int8", {}, "quantize: unknown ONNX scheme `int8`"),
    "rows": (
        lambda folder: None,
        "int4_b32",
        {},
        "int4_b32: rows of 80 are not divisible by 32",
    ),
    "no lessons": (
        config(),
        "int4_b32",
        {"distill": True},
        "quantize: distill: there are no conversations to learn on",
    ),
    "no text": (
        config(),
        "int4_b32",
        {"importance": True},
        "quantize: `importance` is set, but there is no text to collect it on",
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, case: str) -> None:
    spoil, scheme, settings, message = REFUSED[case]
    shape = {"hidden": 80, "heads": 5, "kv_heads": 5} if case == "rows" else {}
    folder = tiny_llama(tmp_path / "model", **shape)
    spoil(folder)
    with pytest.raises((ArtifactError, ConfigError)) as caught:
        quantized_onnx(folder, tmp_path / "out", scheme, **settings)
    assert caught.value.message == message
    assert not list((tmp_path / "out").glob("*onnx*"))


def test_a_scheme_is_made_again_only_if_what_it_uses_changed(make: Make, tmp_path: Path) -> None:
    first = quantized_onnx(make(), tmp_path / "out", "fp32")
    same = quantized_onnx(make(), tmp_path / "out", "fp32", importance=True)
    other = quantized_onnx(make(), tmp_path / "out", "fp32", context=64)
    assert (first.fresh, same.fresh, other.fresh) == (True, False, True)
    assert QuantizeSpec().onnx_scheme == "int4_b32"
