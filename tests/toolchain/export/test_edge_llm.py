"""A recipe's checkpoint leaves for TensorRT Edge-LLM; its scripts run on a fake host and board.

The fakes stand for NVIDIA's tools by name and options; nothing of TensorRT runs here.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import CHATML, tiny_llama
from toolchain import recipe as recipes
from toolchain.cli import app
from toolchain.errors import ConfigError, FitError
from toolchain.export import Export
from toolchain.export.edge_llm import RELEASE
from toolchain.line import exporting
from toolchain.line.walk import Settings
from toolchain.progress import SILENT

RECIPE = """
title = "a skill"
targets = ["rpi-5-8gb", "jetson-orin-nano"]
stages = ["ingest", "quantize", "evaluate", "package"]
[model]
base = "base"
adapter = "adapter"
[data]
files = ["facts.jsonl"]
[package]
context = 256
max_tokens = 64
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base, an adapter of it, data and a recipe."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny_llama(folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(CHATML)
    (folder / "base" / "optimizer.pt").write_bytes(b"of a training")
    tiny_adapter(folder / "adapter", folder / "base")
    rows = [{"question": f"what is {number}?", "answer": "a number"} for number in range(12)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "skill.toml").write_text(RECIPE)
    return folder


def make(folder: Path, out: Path, target_id: str = "") -> Export:
    recipe = recipes.load(folder / "skill.toml")
    board = exporting.board_of(recipe, "tensorrt-edge-llm", target_id)
    settings = Settings(out=out, target=board, report=SILENT)
    return exporting.export(recipe, settings, "tensorrt-edge-llm")


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return make(folder, tmp_path_factory.mktemp("work"))


def test_transformers_opens_the_checkpoint_and_the_adapter_is_in_it(
    exported: Export, folder: Path
) -> None:
    checkpoint = exported.path / "checkpoint"
    merged = AutoModelForCausalLM.from_pretrained(checkpoint)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not merged.state_dict()[name].equal(base.state_dict()[name])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_only_what_transformers_reads_travels(exported: Export) -> None:
    names = {file.name for file in (exported.path / "checkpoint").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not {name for name in names if name.startswith(("record", "adapter", "optimizer"))}


def test_the_readme_says_that_it_was_never_run_and_has_no_gap(exported: Export) -> None:
    text = (exported.path / "README.md").read_text()
    assert "**Never run by us.**" in text and RELEASE in text
    assert "@" not in text.replace("@RELEASE", "")
    assert "`llama` is on their page of supported models" in text


def test_a_second_export_makes_nothing_new(exported: Export, folder: Path) -> None:
    again = make(folder, exported.path.parent)
    assert exported.fresh and not again.fresh
    assert again.record == exported.record


def test_the_first_board_of_the_recipe_that_will_do_is_taken(folder: Path) -> None:
    recipe = recipes.load(folder / "skill.toml")
    assert exporting.board_of(recipe, "tensorrt-edge-llm", "").id == "jetson-orin-nano"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("rpi-5-8gb", "rpi-5-8gb: it has no GPU with CUDA: TensorRT Edge-LLM does not run on it"),
        ("jetson-nano", r"jetson-nano: its GPU has SM 5.3, TensorRT Edge-LLM needs 8.0"),
    ],
)
def test_a_board_that_it_is_not_for_is_refused_before_anything_is_made(
    target: str, said: str, folder: Path
) -> None:
    with pytest.raises(FitError, match=said):
        exporting.board_of(recipes.load(folder / "skill.toml"), "tensorrt-edge-llm", target)


def test_an_unknown_runtime_is_named_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown runtime `tensorrt-llm`") as error:
        exporting.door("tensorrt-llm")
    assert error.value.hint == "did you mean `tensorrt-edge-llm`?"


def test_the_verb_says_where_it_lies_and_a_finished_model_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    words = ["export", str(folder / "skill.toml"), "--for", "tensorrt-edge-llm"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    made = tmp_path / "skill" / "tensorrt-edge-llm"
    assert str(made) in done.stdout and "on-board.sh" in done.stdout
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    words[1] = str(tmp_path / "model.gguf")
    refused = CliRunner().invoke(app, words)
    assert "a finished model has no checkpoint" in str(refused.exception)


# The scripts, with fake tools ---------------------------------------------------------------------

EXPORTER = """#!/bin/sh
echo "export $*" >>"$LOG"
mkdir -p "$2/llm"
cp "$1/config.json" "$2/llm/config.json"
[ -z "${SLOW:-}" ] || sleep 30
head -c 1000 "$1/model.safetensors" >"$2/llm/model.onnx"
"""
BUILDER = """#!/bin/sh
echo "build $*" >>"$LOG"
while [ $# -gt 1 ]; do [ "$1" = --engineDir ] && engine=$2; shift; done
mkdir -p "$engine"
printf half >"$engine/llm.engine"
[ -z "${SLOW:-}" ] || sleep 30
[ -z "${FAIL:-}" ] || exit 1
printf whole >"$engine/llm.engine"
"""
SERVER = """#!/bin/sh
case "$*" in *--help*) echo "${OPTIONS:---model}"; exit 0 ;; esac
echo "serve $* plugin=$EDGELLM_PLUGIN_PATH" >>"$LOG"
"""
SMI = '#!/bin/sh\necho "${GPU:-Orin, 8.7}"\n'
DPKG = """#!/bin/sh
case "$*" in
*libnvinfer*) [ -n "${NO_TRT:-}" ] || echo "libnvinfer10 ${TRT:-10.14.1}" ;;
*nvidia-jetpack*) printf '%s' "${JETPACK:-7.2}" ;;
esac
"""


class Board:
    """A folder that stands for the host and the board: their tools write what they were asked."""

    def __init__(self, folder: Path, exported: Path) -> None:
        self.folder, self.home = folder / "model", folder / "home"
        shutil.copytree(exported, self.folder)
        tools = folder / "tools"
        tree = self.home / "TensorRT-Edge-LLM" / "build"
        self.write(tools / "tensorrt-edgellm-export", EXPORTER)
        self.write(tools / "nvidia-smi", SMI)
        self.write(tools / "dpkg-query", DPKG)
        self.write(tools / "python3", SERVER)
        self.write(tree / "examples" / "llm" / "llm_build", BUILDER)
        self.write(tree / "libNvInfer_edgellm_plugin.so", "plugin")
        self.log = folder / "log"
        self.path = f"{tools}:{os.environ['PATH']}"
        self.plugin = tree / "libNvInfer_edgellm_plugin.so"

    def write(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def begin(self, *words: str, **more: str) -> "subprocess.Popen[str]":
        environment = {"PATH": self.path, "HOME": str(self.home), "LOG": str(self.log), **more}
        return subprocess.Popen(
            [f"./{words[0]}", *words[1:]],
            cwd=self.folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *words: str, code: int = 0, **more: str) -> str:
        child = self.begin(*words, **more)
        out, err = child.communicate(timeout=30)
        assert child.returncode == code, out + err
        return out + err

    def kill_once(self, what: str, *words: str) -> None:
        """Begin a slow run, and kill it with all its children once a tool was called."""
        before = len(self.called(what))
        child = self.begin(*words, SLOW="1")
        until = time.monotonic() + 20
        while len(self.called(what)) == before:
            assert time.monotonic() < until and child.poll() is None
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()

    def called(self, what: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(what)]

    def engines(self) -> list[str]:
        kept = self.home / ".cache" / "demitasse" / "edge-llm"
        return [(folder / "llm.engine").read_text() for folder in sorted(kept.glob("[!.]*"))]


@pytest.fixture
def board(exported: Export, tmp_path: Path) -> Iterator[Board]:
    yield Board(tmp_path, exported.path)


def test_both_scripts_run_through_and_a_second_run_does_nothing(board: Board) -> None:
    board.run("export-onnx.sh")
    assert "there already" in board.run("export-onnx.sh")
    assert len(board.called("export")) == 1

    shown = board.run("on-board.sh")
    assert "demitasse bench http://127.0.0.1:8000" in shown
    assert "there already" in board.run("on-board.sh", "serve", "8123")
    built = board.called("build")
    assert len(built) == 1 and board.engines() == ["whole"]
    assert "--maxBatchSize 1 --maxInputLen 192 --maxKVCacheCapacity 256" in built[0]
    served = board.called("serve")
    assert len(served) == 2
    assert "--host 127.0.0.1 --port 8123" in served[1]
    assert f"plugin={board.plugin}" in served[0]


def test_what_a_killed_run_left_is_made_again_and_never_served(board: Board) -> None:
    board.kill_once("export", "export-onnx.sh")
    assert "onnx: not there, or not whole" in board.run("on-board.sh", "build", code=4)
    board.run("export-onnx.sh")
    assert len(board.called("export")) == 2

    board.kill_once("build", "on-board.sh", "serve")
    assert board.engines() == [] and board.called("serve") == []
    board.run("on-board.sh", "build")
    assert board.engines() == ["whole"] and len(board.called("build")) == 2


@pytest.mark.parametrize("change", [{"GPU": "Thor, 11.0"}, {"TRT": "10.15"}, {"JETPACK": "7.3"}])
def test_another_gpu_tensorrt_or_jetpack_has_an_engine_of_its_own(
    change: dict[str, str], board: Board
) -> None:
    board.run("export-onnx.sh")
    board.run("on-board.sh", "build")
    board.run("on-board.sh", "build", **change)
    board.run("on-board.sh", "build")
    assert len(board.called("build")) == 2 and board.engines() == ["whole", "whole"]


def test_another_plugin_or_another_export_has_an_engine_of_its_own(board: Board) -> None:
    board.run("export-onnx.sh")
    board.run("on-board.sh", "build")
    board.plugin.write_text("plugin of the next release")
    board.run("on-board.sh", "build")
    settings = board.folder / "settings.sh"
    settings.write_text(settings.read_text().replace("MAX_TOKENS=256", "MAX_TOKENS=128"))
    board.run("on-board.sh", "build")
    assert len(board.called("build")) == 3


def test_an_onnx_that_did_not_arrive_whole_is_not_built(board: Board) -> None:
    board.run("export-onnx.sh")
    model = board.folder / "onnx" / "llm" / "model.onnx"
    model.write_bytes(model.read_bytes()[:500])
    assert "onnx: not as it was made" in board.run("on-board.sh", "build", code=4)
    assert board.called("build") == []


def test_an_onnx_of_another_checkpoint_is_not_built(board: Board) -> None:
    board.run("export-onnx.sh")
    (board.folder / "onnx" / "CHECKPOINT").write_text("another\n")
    assert "of another checkpoint" in board.run("on-board.sh", "build", code=4)
    board.run("export-onnx.sh")
    board.run("on-board.sh", "build")


def test_a_build_that_fails_leaves_no_engine(board: Board) -> None:
    board.run("export-onnx.sh")
    assert "llm_build failed" in board.run("on-board.sh", "serve", code=7, FAIL="1")
    assert board.engines() == [] and board.called("serve") == []


@pytest.mark.parametrize(
    ("words", "more", "code", "said"),
    [
        (("on-board.sh", "bild"), {}, 2, "`bild`: neither build nor serve"),
        (("on-board.sh", "serve", "80a"), {}, 2, "`80a`: not a port"),
        (("on-board.sh",), {"EDGELLM": "/nowhere"}, 3, "/nowhere/build/examples/llm/llm_build"),
        (("on-board.sh",), {"NO_TRT": "1"}, 3, "TensorRT is not installed"),
    ],
)
def test_what_is_missing_is_said_with_its_exit_code(
    words: tuple[str, ...], more: dict[str, str], code: int, said: str, board: Board
) -> None:
    board.run("export-onnx.sh")
    assert said in board.run(*words, code=code, **more)


@pytest.mark.parametrize(
    ("options", "named"), [("--engine-dir", "--engine-dir"), ("--model", "--model")]
)
def test_the_server_is_given_the_engine_by_the_option_that_it_has(
    options: str, named: str, board: Board
) -> None:
    board.run("export-onnx.sh")
    board.run("on-board.sh", OPTIONS=options)
    assert f"-m experimental.server {named} " in board.called("serve")[0]
