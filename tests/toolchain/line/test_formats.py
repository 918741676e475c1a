"""Recipes with several formats: each has its own folders, gate and bundle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device.manifest import read_manifest, read_runtime
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama
from tests.fakes.records import model_figures, record_of
from toolchain import recipe, runtime, show, target
from toolchain.artifacts import Bundle, ModelFile
from toolchain.errors import FitError
from toolchain.forecast import LiteSizes, tflite_needs
from toolchain.line import formats
from toolchain.line.schemes import try_schemes
from toolchain.line.walk import Settings, plan, walk
from toolchain.package import refuse_unfit
from toolchain.progress import Silent

RECIPE = """
title = "two formats"
targets = ["x86-64"]
stages = ["ingest", "quantize", "evaluate", "package"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
[quantize]
formats = {formats}
scheme = "F16"
tflite_scheme = "fp32"
prefill = [32]
[evaluate]
questions = 2
kl_tokens = 60
max_tokens = 6
[evaluate.gate]
max_kl = 1e-3
max_eos_drop = 1
[package]
context = 256
"""


def written(folder: Path, formats: str = '["gguf", "tflite"]') -> recipe.Recipe:
    (folder / "both.toml").write_text(RECIPE.format(formats=formats))
    return recipe.load(folder / "both.toml")


def settings(out: Path, target_id: str = "x86-64") -> Settings:
    return Settings(out=out, target=target.find(target_id), report=Silent(), offline=True)


def test_each_format_has_folders_of_its_own(tmp_path: Path) -> None:
    steps = plan(written(tmp_path), settings(tmp_path))
    by_format = [
        "quantize",
        "evaluate",
        "package",
        "quantize-tflite",
        "evaluate-tflite",
        "package-tflite",
    ]
    assert [step.folder.name for step in steps] == ["ingest", *by_format]
    assert [step.what for step in steps if step.stage == "quantize"] == [
        "F16 as gguf",
        "fp32 as tflite",
    ]


def test_a_board_gets_no_format_that_it_cannot_run(tmp_path: Path) -> None:
    steps = plan(written(tmp_path), settings(tmp_path, "jetson-nano"))
    assert [step.folder.name for step in steps] == ["ingest", "quantize", "evaluate", "package"]


def test_a_board_that_can_run_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError) as caught:
        plan(written(tmp_path, '["tflite"]'), settings(tmp_path, "jetson-nano"))
    assert (caught.value.message, caught.value.hint) == (
        "jetson-nano: runs no tflite",
        "it runs llama.cpp",
    )


def test_each_graph_of_a_tflite_file_takes_memory_of_its_own() -> None:
    sizes = LiteSizes(context=8, prefill=(16,), weights_bytes=100, kv_bytes_per_token=4, n_vocab=10)
    two = tflite_needs(sizes, 8)
    assert (two["weights_bytes"], two["kv_bytes"]) == (200, 128)


def test_package_asks_of_every_format_whether_it_fits(tmp_path: Path) -> None:
    """A TFLite file of 806 MB by its own figures was once packaged for a board with 287 MB left."""
    figures = model_figures(
        "m.tflite",
        weights_bytes=150 << 20,
        prefill=[16, 128],
        kv_bytes_per_token=40_000,
        n_vocab=49_152,
    )
    record = record_of("quantize", figures)
    model = ModelFile(path=tmp_path, record=record)
    needs = formats.of_file(model.file).packing.needs(model, 512)
    with pytest.raises(FitError) as caught:
        refuse_unfit("tiny", needs, target.find("rpi-zero-2w"), 512)
    assert caught.value.message == (
        "package: rpi-zero-2w: tiny does not fit in memory: the weights alone take 450 MB, "
        "287 MB are left beside the operating system"
    )
    refuse_unfit("tiny", needs, target.find("rpi-5-4gb"), 512)
    refuse_unfit("tiny", needs, target.find("x86-64"), 512)


@pytest.mark.slow
def test_both_formats_pass_the_gate_and_their_goldens(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "base")
    (tmp_path / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    bundles = [
        step.artifact
        for step in walk(written(tmp_path), settings(tmp_path / "out"))
        if isinstance(step.artifact, Bundle)
    ]
    manifests = [read_manifest(bundle.path) for bundle in bundles]
    assert [manifest.engine.name for manifest in manifests] == ["llama.cpp", "litert"]
    assert [manifest.kv_type for manifest in manifests] == ["f16", "f32"]
    assert manifests[1].gate["mean_kl"] < 1e-6, "fp32 is the teacher itself"
    folder = runtime.lite_for_this_computer(Silent())
    checked = subprocess.run(
        [sys.executable, "-sEB", str(folder), "check", "--bundle", str(bundles[1].path)],
        capture_output=True,
        check=True,
    )
    answer = json.loads(checked.stdout.splitlines()[-1])
    assert (answer["ok"], answer["exact"]) == (True, True)


@pytest.mark.slow
def test_schemes_of_both_formats_are_measured_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_llama(tmp_path / "base")
    (tmp_path / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    tried = list(try_schemes(written(tmp_path), settings(tmp_path / "out"), ["Q8_0", "fp16"]))
    assert [(one.scheme, one.model.file.suffix) for one in tried] == [
        ("Q8_0", ".gguf"),
        ("fp16", ".tflite"),
    ]
    assert tried[1].verdict.record.figures["mean_kl"] < tried[0].verdict.record.figures["mean_kl"]
    show.schemes(tried, as_json=False)
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[-2:]] == ["fp16", "Q8_0"]


@pytest.mark.slow
def test_the_runtime_says_for_which_python_it_is() -> None:
    described = read_runtime(runtime.lite_for_this_computer(Silent()))
    assert described.python_tag == f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert described.dispatches
    assert list(described.engines) == ["litert"]
    paths = {file.path for file in described.files}
    assert "ai_edge_litert/interpreter.py" in paths
    assert not {path for path in paths if "WebGpu" in path}, "it ends the process on a Cortex-A72"
