"""An ONNX bundle through the whole line and onto this computer: gate, goldens, push, ask."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device.manifest import read_manifest
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama
from tests.fakes.ports import free_port
from tests.toolchain.line.test_formats import settings
from toolchain import recipe
from toolchain.line.walk import plan

RECIPE = """
title = "an ONNX file"
targets = ["x86-64"]
stages = ["ingest", "quantize", "evaluate", "package"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
[quantize]
formats = ["onnx"]
onnx_scheme = "{scheme}"
distill = {learned}
[evaluate]
questions = 2
kl_tokens = 60
max_tokens = 6
[evaluate.gate]
max_kl = {kl}
min_agreement = 0.3
max_general_kl = 9
min_general_agreement = 0.1
max_eos_drop = 1
[package]
context = 96
"""


def written(folder: Path, scheme: str = "fp32", *, learned: bool = False) -> recipe.Recipe:
    file = folder / "tiny.toml"
    kl = 1e-3 if scheme == "fp32" else 9
    text = RECIPE.format(scheme=scheme, learned=str(learned).lower(), kl=kl)
    file.write_text(text)
    return recipe.load(file)


@pytest.mark.parametrize(
    ("scheme", "learned", "expected"),
    [
        ("fp32", False, "fp32 as onnx"),
        ("fp32", True, "fp32 as onnx"),
        ("int4_b32", True, "int4_b32 as onnx, codes learned in the format"),
    ],
)
def test_a_plan_says_what_will_be_made(
    tmp_path: Path, scheme: str, learned: bool, expected: str
) -> None:
    steps = plan(written(tmp_path, scheme, learned=learned), settings(tmp_path))
    assert [step.folder.name for step in steps][1:] == [
        "quantize-onnx",
        "evaluate-onnx",
        "package-onnx",
    ]
    assert expected in [step.what for step in steps]


@pytest.mark.slow
def test_a_bundle_passes_the_gate_and_its_goldens_and_answers_here(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "base")
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS]
    (tmp_path / "facts.jsonl").write_text("".join(rows))
    written(tmp_path)
    port = str(free_port())
    environment = os.environ | {
        "DEMITASSE_ROOT": str(tmp_path / "board"),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }

    def demitasse(*words: str) -> str:
        argv = [sys.executable, "-m", "toolchain", *words]
        done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    demitasse("package", "tiny.toml")
    folder = tmp_path / "build" / "tiny" / "package-onnx"
    manifest = read_manifest(folder)
    assert (manifest.engine.name, manifest.kv_type) == ("ort", "f32")
    assert manifest.model_files == (manifest.model, f"{manifest.model}.data")
    assert manifest.gate["mean_kl"] < 1e-6, "fp32 is the base itself"
    try:
        pushed = demitasse(
            "push", str(folder), "local", "--port", port, "--allow-unsigned", "--json"
        )
        assert "equal token for token" in json.loads(pushed)["goldens"]
        assert json.loads(demitasse("ask", "local", "where is the key kept?", "--json"))["text"]
    finally:
        demitasse("stop", "local")
