"""Every scheme gives the bytes of llama.cpp's quantizer, with and without an importance matrix."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.manifest.gguf import read_header
from tests.fakes.families import tiny_family
from tests.fakes.models import tiny_llama, tiny_qwen2
from tests.toolchain.quantize.conftest import Quantized, config, tensors, upstream
from toolchain.quantize.gguf import Additions
from toolchain.quantize.gguf.schemes import SCHEMES
from toolchain.quantize.learned import importance
from toolchain.quantize.learned.importance import Matrix

Build = Callable[[Path], Any]
WIDE: dict[str, Any] = {"hidden": 256, "intermediate": 256, "dtype": "bfloat16"}


def stretched(build: Build, layers: int) -> Build:
    """Repeat a one-layer model with layers of zeros: depth decides types, and zeros are quick."""

    def grow(folder: Path) -> None:
        build(folder)
        config(num_hidden_layers=layers, layer_types=None)(folder)
        tensors(lambda found: _add_layers(found, layers))(folder)

    return grow


def _add_layers(found: dict[str, Any], layers: int) -> None:
    for name, values in list(found.items()):
        found.update(
            {
                name.replace(".layers.0.", f".layers.{layer}."): values * 0
                for layer in range(1, layers)
                if ".layers." in name
            }
        )


SHAPES: dict[str, Build] = {
    "sixteen layers, four heads share a key": stretched(
        lambda folder: tiny_llama(folder, layers=1, kv_heads=1, **WIDE), 16
    ),
    "nine layers, tied": stretched(lambda folder: tiny_qwen2(folder, layers=1, **WIDE), 9),
    "eighty layers with shared values": stretched(
        lambda folder: tiny_llama(folder, layers=1, **WIDE), 80
    ),
    "every bias": lambda folder: tiny_llama(
        folder, layers=1, attention_bias=True, mlp_bias=True, **WIDE
    ),
    "rows that fit only in part": lambda folder: tiny_llama(
        folder, layers=2, hidden=320, heads=5, kv_heads=1, intermediate=256, dtype="bfloat16"
    ),
    "query, key and value in one": stretched(
        lambda folder: tiny_family(
            "phi-3", folder, dtype="bfloat16", hidden_size=256, num_hidden_layers=1
        ),
        9,
    ),
}


@pytest.fixture
def shape(kept: Callable[[str, Build], Path], request: pytest.FixtureRequest) -> Path:
    """Return the model of a shape."""
    return kept(request.param, SHAPES[request.param])


@pytest.fixture(scope="module")
def written() -> dict[Path, Path]:
    """Model folder → its BF16 file, written once for all schemes."""
    return {}


@pytest.fixture
def source(shape: Path, quantized: Quantized, written: dict[Path, Path]) -> Path:
    """Return the BF16 file of a shape, which llama.cpp quantizes."""
    if shape not in written:
        written[shape] = quantized(shape, "BF16").file
    return written[shape]


EIGHTY = "eighty layers with shared values"
CASES = [
    (shape, scheme)
    for shape in SHAPES
    for scheme in SCHEMES
    if scheme != "BF16" and (shape != EIGHTY or scheme in ("Q4_K_M", "Q4_K_S", "Q3_K_M", "Q2_K"))
]
"""Eighty layers differ only where `attn_v` would be Q3_K or Q4_K."""


@pytest.mark.sampled(65)
@pytest.mark.parametrize(("shape", "scheme"), CASES, indirect=["shape"])
def test_the_file_is_byte_for_byte_that_of_upstream(
    shape: Path, source: Path, scheme: str, quantized: Quantized, tmp_path: Path
) -> None:
    theirs = upstream(source, scheme, tmp_path / "theirs.gguf")
    assert quantized(shape, scheme).file.read_bytes() == theirs


WEIGHED = (
    "sixteen layers, four heads share a key",
    "nine layers, tied",
    "rows that fit only in part",
)


@pytest.mark.sampled(42)
@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if scheme.quantized])
@pytest.mark.parametrize("shape", WEIGHED, indirect=True)
def test_with_an_importance_matrix_the_tensors_are_still_those_of_upstream(
    shape: Path, source: Path, scheme: str, quantized: Quantized, tmp_path: Path
) -> None:
    matrix = random_matrix(source)
    importance.save(matrix, tmp_path / "matrix.gguf")
    theirs, ours = (
        tmp_path / "theirs.gguf",
        quantized(shape, scheme, None, Additions(importance=tmp_path / "matrix.gguf")).file,
    )
    upstream(source, scheme, theirs, matrix.weights())
    assert tensor_bytes(ours) == tensor_bytes(theirs)
    assert tensor_bytes(ours) != tensor_bytes(quantized(shape, scheme).file) or scheme == "Q8_0"


def random_matrix(file: Path) -> Matrix:
    """Return positive weights for every matrix of a model file but its embedding and head."""
    draw = np.random.default_rng(7)
    matrices = [
        tensor
        for tensor in read_header(file).tensors
        if len(tensor.shape) == 2 and tensor.name.startswith("blk.")
    ]
    sums = {
        tensor.name: draw.uniform(50, 5000, tensor.shape[0]).astype(np.float32)
        for tensor in matrices
    }
    return Matrix(sums=sums, counts=dict.fromkeys(sums, 1000), dataset="noise", chunks=2)


def tensor_bytes(file: Path) -> list[tuple[str, str, bytes]]:
    raw = file.read_bytes()
    return [
        (tensor.name, tensor.type, raw[tensor.offset : tensor.offset + tensor.size])
        for tensor in read_header(file).tensors
    ]


def test_an_80_layer_model_with_shared_values_gets_more_bits_for_them(
    kept: Callable[[str, Build], Path], quantized: Quantized
) -> None:
    header = read_header(quantized(kept(EIGHTY, SHAPES[EIGHTY]), "Q4_K_M").file)
    assert {tensor.type for tensor in header.tensors if "attn_v" in tensor.name} == {"Q5_K", "Q6_K"}
