"""What `inspect` says of a TFLite file."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_qwen2
from toolchain.cli import app
from toolchain.errors import ArtifactError
from toolchain.quantize.tflite.blueprint import Blueprint
from toolchain.quantize.tflite.contents import read_contents
from toolchain.quantize.tflite.file import write_header
from toolchain.quantize.tflite.graph import Graph


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspected")
    return quantized_tflite(tiny_qwen2(root / "model"), root / "out", "dynamic_wi8_afp32").file


def test_the_figures_are_those_of_the_stage(file: Path) -> None:
    found = read_contents(file)
    assert (found.architecture, found.scheme, found.licence, found.base, found.context) == (
        "qwen2",
        "dynamic_wi8_afp32",
        "Apache-2.0",
        "someone/tiny",
        128,
    )
    assert found.shape == {
        "layers": 2,
        "key heads": 2,
        "head width": 64,
        "tokens of vocabulary": 512,
        "signatures": 3,
    }
    assert found.types[0].type == "INT8"
    assert found.warnings == ()


def test_the_verb_shows_one_screen(file: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(file)])
    assert shown.exit_code == 0
    assert "qwen2 model, dynamic_wi8_afp32" in shown.stdout
    assert len(shown.stdout.splitlines()) < 25
    listed = json.loads(
        CliRunner().invoke(app, ["inspect", str(file), "--json", "--tensors"]).stdout
    )["tensors"]
    assert ("model.embed_tokens.weight", "INT8") in {
        (tensor["name"], tensor["type"]) for tensor in listed
    }


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    blueprint = Blueprint()
    graph = Graph(blueprint, "serve")
    graph.finish(
        {"y": graph.add(graph.input("x", (1, 32)), graph.constant(np.ones(32, np.float32)))}
    )
    write_header(tmp_path / "other.tflite", blueprint, "fp32")
    assert read_contents(tmp_path / "other.tflite").warnings == (
        "no signature `decode`: no decoder in litert-torch's contract",
        "no note of ours: what stops an answer is not in the file",
    )


def test_a_broken_file_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.tflite").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"^cut\.tflite: "):
        read_contents(tmp_path / "cut.tflite")
