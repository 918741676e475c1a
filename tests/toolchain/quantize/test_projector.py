"""The projector file: the bytes that llama.cpp's converter writes, beside a model file as ever.

gguf, llama.cpp's own package, is the referee of names, types and bytes; with DEMITASSE_CONVERTER,
the path to convert_hf_to_gguf.py, the whole file is compared with what that program writes.
"""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, quants

from tests.fakes.eyes import POSITIONS, SIDE, tiny_smolvlm
from tests.fakes.gemma_eyes import tiny_gemma3
from tests.toolchain.quantize.conftest import Recorder, checkpoint
from toolchain.artifacts import ModelFile
from toolchain.errors import ArtifactError
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.quantize.gguf.projector import PROJECTOR_SCHEMES, write_projector
from toolchain.recipe import QuantizeSpec

KINDS = {
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
    "Q8_0": GGMLQuantizationType.Q8_0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_smolvlm(tmp_path_factory.mktemp("smolvlm"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma3(tmp_path_factory.mktemp("gemma3"), layers=1)


def written(model: Path, out: Path, scheme: str) -> GGUFReader:
    """Return a projector file that was just written."""
    made = write_projector(model, "tiny", scheme, out, Silent())
    assert made.file == f"mmproj-tiny-{scheme}.gguf"
    file = GGUFReader(out / made.file)
    assert made.weights_bytes == sum(int(tensor.n_bytes) for tensor in file.tensors)
    return file


def tensors(file: GGUFReader) -> dict[str, tuple[GGMLQuantizationType, list[int], bytes]]:
    return {
        each.name: (each.tensor_type, list(map(int, each.shape)), each.data.tobytes())
        for each in file.tensors
    }


@pytest.mark.parametrize("scheme", PROJECTOR_SCHEMES)
def test_every_tensor_has_the_bytes_that_llama_cpps_own_package_makes(
    model: Path, tmp_path: Path, scheme: str
) -> None:
    from safetensors.numpy import load_file

    found = tensors(written(model, tmp_path, scheme))
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 2)
    seen = ("model.vision_model.", "model.connector.")
    expected = {}
    for origin, values in load_file(model / "model.safetensors").items():
        if origin.startswith(seen):
            name = table.get_name(origin, try_suffixes=(".weight", ".bias"))
            assert name
            plain = values.ndim == 1 or ".embeddings." in origin
            kind = GGMLQuantizationType.F32 if plain else KINDS[scheme]
            expected[name] = (
                kind,
                list(reversed(values.shape)),
                quants.quantize(values.astype(np.float32), kind).tobytes(),
            )
    assert found == expected


@pytest.mark.parametrize("scheme", PROJECTOR_SCHEMES)
def test_gemmas_projector_has_the_bytes_that_llama_cpps_own_package_makes(
    gemma: Path, tmp_path: Path, scheme: str
) -> None:
    """Its projection stays in 16 bits, and its norm holds the difference from 1."""
    from safetensors.numpy import load_file

    found = tensors(written(gemma, tmp_path, scheme))
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 2)
    expected = {}
    for origin, values in load_file(gemma / "model.safetensors").items():
        if origin.startswith(("vision_tower.", "multi_modal_projector.")):
            known = origin.replace("_weight", ".weight")
            name = table.get_name(known, try_suffixes=(".weight", ".bias"))
            assert name
            kind = KINDS[scheme]
            if values.ndim == 1 or ".embeddings." in origin:
                kind = GGMLQuantizationType.F32
            elif "input_projection" in origin or (scheme == "Q8_0" and values.shape[-1] % 32):
                kind = GGMLQuantizationType.F16
            shifted = values.astype(np.float32) + np.float32("soft_emb_norm" in origin)
            sizes = list(reversed(values.shape))
            expected[name] = (kind, sizes, quants.quantize(shifted, kind).tobytes())
    assert found == expected


@pytest.mark.skipif("DEMITASSE_CONVERTER" not in os.environ, reason="names llama.cpp's converter")
@pytest.mark.parametrize("scheme", PROJECTOR_SCHEMES)
@pytest.mark.parametrize("family", ["model", "gemma"])
def test_the_file_is_that_of_llama_cpps_converter(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, scheme: str
) -> None:
    model: Path = request.getfixturevalue(family)
    ours = written(model, tmp_path, scheme)
    theirs = tmp_path / "theirs.gguf"
    words = ["--mmproj", "--outtype", scheme.lower(), "--outfile", str(theirs), str(model)]
    program = Path(os.environ["DEMITASSE_CONVERTER"])
    environment = {**os.environ, "PYTHONPATH": str(program.parent / "gguf-py")}
    subprocess.run([sys.executable, str(program), *words], check=True, env=environment)
    other = GGUFReader(theirs)
    assert tensors(ours) == tensors(other)
    fields = {key: field.contents() for key, field in other.fields.items() if "clip" in key}
    assert {key: ours.fields[key].contents() for key in fields} == fields


def test_a_picture_is_one_tile_whatever_the_processor_scales_it_to(
    model: Path, tmp_path: Path
) -> None:
    found = written(model, tmp_path, "Q8_0").fields
    assert found["clip.vision.preproc_image_size"].contents() == SIDE
    assert found["clip.projector_type"].contents() == "idefics3"


def test_quantize_writes_both_files_and_the_model_file_is_a_llama(
    model: Path, tmp_path: Path
) -> None:
    recorder = Recorder()
    label = ModelLabel(name="tiny eyes", finetune="leds")
    made: ModelFile = quantize(
        checkpoint(model), QuantizeSpec(scheme="Q8_0"), label, tmp_path / "out", recorder
    )
    assert made.projector and made.projector.name == "mmproj-tiny-eyes-leds-Q8_0.gguf"
    assert made.figures.picture_tokens == POSITIONS
    assert made.projector.is_file()
    assert any(note.startswith("mmproj-tiny-eyes-leds-Q8_0.gguf: ") for note in recorder.notes)
    text = GGUFReader(made.file)
    assert text.fields["general.architecture"].contents() == "llama"
    assert not [tensor.name for tensor in text.tensors if tensor.name.startswith(("v.", "mm."))]


def test_a_text_model_has_no_projector(tmp_path: Path) -> None:
    from tests.fakes.models import tiny_llama

    folder = tiny_llama(tmp_path / "text")
    spec = QuantizeSpec(scheme="Q8_0")
    made = quantize(checkpoint(folder), spec, ModelLabel(name="text"), tmp_path / "out", Silent())
    assert (made.projector, made.figures.picture_tokens) == (None, None)


def test_blip_2_is_refused_before_a_weight_is_read(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "blip"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "blip-2", "architectures": ["Blip2"]}')
    spec = QuantizeSpec(scheme="Q8_0")
    with pytest.raises(ArtifactError, match="BLIP-2 has a Q-Former"):
        quantize(checkpoint(folder), spec, ModelLabel(name="blip"), tmp_path / "out", Silent())
    assert not list((tmp_path / "out").glob("*.gguf"))
