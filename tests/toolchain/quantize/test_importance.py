"""The importance matrix: what is collected, its file form, and its effect on quantizing."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from llama_cpp import llama_cpp
from safetensors.numpy import load_file

from device.manifest.gguf import read_header
from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import TEXTS, tiny_llama
from tests.toolchain.quantize.conftest import LABEL, Quantized, Recorder, checkpoint
from toolchain.errors import ArtifactError, ConfigError
from toolchain.models.architecture import read_architecture
from toolchain.models.lora import read_lora
from toolchain.models.weights import open_weights
from toolchain.progress import Silent
from toolchain.quantize.gguf import IMPORTANCE, Additions, quantize
from toolchain.quantize.learned import importance
from toolchain.quantize.learned.importance import CHUNK_TOKENS, Matrix
from toolchain.recipe import QuantizeSpec

CALIBRATION = TEXTS * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that all tests leave as it is."""
    return tiny_llama(tmp_path_factory.mktemp("importance") / "model")


def collected(folder: Path, **options: Any) -> Matrix:
    with open_weights(folder) as weights:
        model = read_architecture(folder, weights)
    return importance.collect(folder, model, CALIBRATION, Silent(), **options)


def test_the_first_layers_figures_are_those_of_its_normed_embeddings(folder: Path) -> None:
    from tokenizers import Tokenizer

    matrix, weights = collected(folder), load_file(folder / "model.safetensors")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [number for text in CALIBRATION for number in tokenizer.encode(text).ids][
        : matrix.chunks * CHUNK_TOKENS
    ]
    rows = weights["model.embed_tokens.weight"][ids].astype(np.float64)
    normed = (
        rows
        / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-5)
        * weights["model.layers.0.input_layernorm.weight"]
    )
    assert matrix.counts["blk.0.attn_q.weight"] == len(ids)
    np.testing.assert_allclose(
        matrix.weights()["blk.0.attn_q.weight"], (normed**2).mean(0), rtol=1e-4
    )


def test_every_matrix_of_every_layer_is_seen_and_no_other(folder: Path) -> None:
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(collected(folder).sums) == {
        f"blk.{layer}.{name}.weight" for layer in range(2) for name in names
    }


@pytest.mark.slow
def test_an_adapter_counts_as_merged(folder: Path, tmp_path: Path) -> None:
    lora = read_lora(tiny_adapter(tmp_path / "skill", folder, modules=("v_proj",)))
    plain, merged = collected(folder).sums, collected(folder, lora=lora).sums
    np.testing.assert_array_equal(plain["blk.0.attn_v.weight"], merged["blk.0.attn_v.weight"])
    assert (plain["blk.0.attn_output.weight"] != merged["blk.0.attn_output.weight"]).any()


def test_too_little_text_is_refused(folder: Path) -> None:
    with open_weights(folder) as weights:
        model = read_architecture(folder, weights)
    with pytest.raises(
        ConfigError,
        match=r"^quantize: \d+ tokens of calibration text, an importance matrix needs 512$",
    ):
        importance.collect(folder, model, ["too short"], Silent())


MATRIX = Matrix(
    sums={
        "blk.0.ffn_up.weight": np.array([4.0, 8.0, 0.0], np.float32),
        "blk.0.attn_q.weight": np.array([1.0, 2.0], np.float32),
    },
    counts={"blk.0.ffn_up.weight": 2, "blk.0.attn_q.weight": 0},
    dataset="some text",
    chunks=7,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    importance.save(MATRIX, tmp_path / "matrix.gguf")
    found = importance.load(tmp_path / "matrix.gguf")
    assert (found.counts, found.dataset, found.chunks, found.chunk_tokens) == (
        MATRIX.counts,
        "some text",
        7,
        512,
    )
    assert {name: values.tolist() for name, values in found.weights().items()} == {
        "blk.0.attn_q.weight": [1.0, 1.0],
        "blk.0.ffn_up.weight": [2.0, 4.0, 0.0],
    }


def test_llama_cpp_finds_what_its_own_loader_asks_for(tmp_path: Path) -> None:
    importance.save(MATRIX, tmp_path / "matrix.gguf")
    library = _ggml()
    opened = library.gguf_init_from_file(
        bytes(tmp_path / "matrix.gguf"), _Parameters(no_alloc=True, context=None)
    )
    assert opened
    keys = {
        name: library.gguf_find_key(opened, f"imatrix.{name}".encode())
        for name in ("datasets", "chunk_count", "chunk_size")
    }
    assert min(keys.values()) >= 0
    assert [
        library.gguf_get_val_u32(opened, keys[name]) for name in ("chunk_count", "chunk_size")
    ] == [7, 512]
    names = [
        library.gguf_get_tensor_name(opened, at).decode()
        for at in range(library.gguf_get_n_tensors(opened))
    ]
    assert names == [
        f"blk.0.{name}.weight.{part}"
        for name in ("attn_q", "ffn_up")
        for part in ("in_sum2", "counts")
    ]
    assert {library.gguf_get_tensor_type(opened, at) for at in range(len(names))} == {0}
    library.gguf_free(opened)


class _Parameters(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


def _ggml() -> ctypes.CDLL:
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    library.gguf_init_from_file.restype, library.gguf_init_from_file.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_char_p, _Parameters],
    )
    library.gguf_get_tensor_name.restype = ctypes.c_char_p
    for name, kinds in (
        ("gguf_find_key", [ctypes.c_void_p, ctypes.c_char_p]),
        ("gguf_get_val_u32", [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_get_n_tensors", [ctypes.c_void_p]),
        ("gguf_get_tensor_name", [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_get_tensor_type", [ctypes.c_void_p, ctypes.c_int64]),
        ("gguf_free", [ctypes.c_void_p]),
    ):
        getattr(library, name).argtypes = kinds
    return library


@pytest.mark.slow
def test_the_stage_collects_keeps_and_says_so(folder: Path, quantized: Quantized) -> None:
    report = Recorder()
    model = quantized(folder, "Q4_0", report, Additions(calibration=CALIBRATION))
    metadata = read_header(model.file).metadata
    said = {
        key.removeprefix("quantize.imatrix."): value
        for key, value in metadata.items()
        if "imatrix" in key
    }
    chunks = model.record.figures["importance_chunks"]
    assert said == {
        "dataset": "calibration text of the recipe",
        "entries_count": 14,
        "chunks_count": chunks,
    }
    assert importance.load(model.path / IMPORTANCE).chunks == chunks > 0
    assert {tensor.type for tensor in read_header(model.file).tensors} == {"F32", "Q4_0", "Q6_K"}


@pytest.mark.slow
def test_errors_where_they_matter_become_smaller(folder: Path, quantized: Quantized) -> None:
    plain = quantized(folder, "Q4_K_S")
    plain_up, weighed = (
        _up(plain.file),
        quantized(folder, "Q4_K_S", None, Additions(calibration=CALIBRATION)),
    )
    weights = importance.load(weighed.path / IMPORTANCE).weights()["blk.1.ffn_up.weight"]
    original = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]

    def error(found: np.ndarray) -> float:
        return float((weights * (found - original) ** 2).sum())

    assert error(_up(weighed.file)) < error(plain_up)


def _up(file: Path) -> np.ndarray:
    tensor = next(
        tensor for tensor in read_header(file).tensors if tensor.name == "blk.1.ffn_up.weight"
    )
    raw = np.fromfile(file, np.uint8, tensor.size, offset=tensor.offset)
    return gguf.quants.dequantize(
        raw.reshape(tensor.shape[1], -1), gguf.GGMLQuantizationType[tensor.type]
    )


def test_the_recipe_decides_whether_a_matrix_is_used(folder: Path, tmp_path: Path) -> None:
    given = Additions(calibration=CALIBRATION)
    ignored = quantize(
        checkpoint(folder), QuantizeSpec(scheme="Q4_0"), LABEL, tmp_path / "plain", Silent(), given
    )
    assert ignored.record.figures["importance_chunks"] == 0
    with pytest.raises(ConfigError) as caught:
        quantize(
            checkpoint(folder),
            QuantizeSpec(scheme="Q4_0", importance=True),
            LABEL,
            tmp_path / "weighed",
            Silent(),
        )
    assert (
        caught.value.message
        == "quantize: `importance` is set, but there is no text to collect it on"
    )


def other(**changes: Any) -> Callable[[Path], None]:
    return lambda file: importance.save(replace(MATRIX, **changes), file)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not GGUF": (
        lambda file: file.write_bytes(b"\x0b\0\0\0" * 30),
        "matrix.gguf: not an importance matrix: ",
    ),
    "of another model": (
        other(
            sums={"blk.9.ffn_up.weight": np.ones(3, np.float32)}, counts={"blk.9.ffn_up.weight": 1}
        ),
        "matrix.gguf: names no tensor of this model",
    ),
    "of another width": (
        other(),
        "matrix.gguf: tensor `blk.0.attn_q.weight`: 2 columns, the model has 256",
    ),
    "negative": (
        other(
            sums={"blk.0.ffn_up.weight": -np.ones(256, np.float32)},
            counts={"blk.0.ffn_up.weight": 1},
        ),
        "matrix.gguf: tensor `blk.0.ffn_up.weight.in_sum2`: a value is negative, NaN or infinite",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_matrix_that_does_not_fit_is_refused_and_leaves_no_file(
    folder: Path, tmp_path: Path, quantized: Quantized, case: str
) -> None:
    write, message = REFUSED[case]
    write(tmp_path / "matrix.gguf")
    with pytest.raises(ArtifactError) as caught:
        quantized(folder, "Q4_0", None, Additions(importance=tmp_path / "matrix.gguf"))
    assert caught.value.message.startswith(message)
    assert not list((tmp_path / "out").rglob("*.gguf*"))


def test_a_model_file_is_no_matrix(folder: Path, quantized: Quantized) -> None:
    with pytest.raises(ArtifactError) as caught:
        importance.load(quantized(folder, "Q8_0").file)
    assert caught.value.message.endswith("not an importance matrix but `model`")
