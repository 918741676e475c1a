"""What `inspect` and `fit` say of an ONNX file."""

from pathlib import Path

import pytest

from tests.fakes.models import tiny_qwen2
from tests.fakes.onnx_files import quantized_onnx
from toolchain import target
from toolchain.artifacts import ModelFile
from toolchain.errors import ArtifactError
from toolchain.forecast_onnx import needs_of, sizes_of
from toolchain.line import formats
from toolchain.quantize.onnx.contents import read_contents


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFile:
    root = tmp_path_factory.mktemp("onnx")
    return quantized_onnx(tiny_qwen2(root / "model"), root / "out", "int4_b32")


def test_codes_are_counted_with_their_scales(model: ModelFile) -> None:
    inside = read_contents(model.file)
    codes, vectors = inside.types
    assert (codes.type, codes.bits, vectors.type) == ("UINT8", 5.0, "FLOAT")
    assert codes.weights + vectors.weights == inside.parameters == model.figures.parameters
    assert inside.size_bytes == model.figures.size_bytes
    assert (inside.architecture, inside.scheme, inside.context) == ("qwen2", "int4_b32", 128)
    assert inside.shape == {
        "layers": 2,
        "key heads": 2,
        "head width": 64,
        "tokens of vocabulary": 512,
    }
    assert inside.warnings == ()


def test_a_broken_file_is_said(model: ModelFile, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(model.file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"^cut\.onnx: ") as caught:
        read_contents(tmp_path / "cut.onnx")
    assert caught.value.hint == "download or copy both files again"


def test_what_is_weighed_is_what_is_packaged(model: ModelFile) -> None:
    row = formats.of_file(model.file)
    weighed = row.weigh(model.file, 0, 0)
    assert (weighed.usual_context, weighed.trained_context) == (128, 128)
    forecast = weighed.forecast(target.find("rpi-5-4gb"), 64, 0)
    needs = row.packing.needs(model, 64)
    assert needs["kv_bytes"] == forecast.needs.kv_bytes == 2 * 2 * 2 * 64 * 4 * 64
    assert forecast.needs.weights_bytes >= needs["weights_bytes"]
    assert forecast.bytes_per_token < forecast.needs.weights_bytes + 1


def test_float16_takes_the_memory_of_float32(tmp_path: Path) -> None:
    folder = tiny_qwen2(tmp_path / "model")
    half, whole = (
        quantized_onnx(folder, tmp_path / scheme, scheme).figures for scheme in ("fp16", "fp32")
    )
    sizes = [needs_of(sizes_of(figures), 64)["weights_bytes"] for figures in (half, whole)]
    assert sizes[0] == sizes[1]
    assert half.weights_bytes * 2 == whole.weights_bytes
