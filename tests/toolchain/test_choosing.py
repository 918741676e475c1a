"""Which of several formats stays: the fastest that passed the gate, or the nearest to its model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device.manifest import File, read_manifest
from tests.fakes.bundles import make_bundle
from tests.fakes.models import CHATML, tiny_llama
from toolchain import recipe as recipes
from toolchain import show, target
from toolchain.artifacts import Bundle, Deployment, Report
from toolchain.choosing import Quality, Rival, choose
from toolchain.delivery import Delivery, quality_of
from toolchain.errors import GateError, ToolchainError
from toolchain.line.walk import Settings, walk


def report(rate: float, *, noise: float = 0.01, emulated: bool = False) -> Report:
    samples = [rate * (1 + noise * step) for step in (-2, -1, 0, 1, 2)]
    row = {"n_gen": 128, "samples_ts": samples, "median_ts": rate, "model_type": "tiny"}
    prompt = {**row, "n_gen": 0, "n_prompt": 512}
    rows = [prompt, {**row, "n_prompt": 0}]
    return Report(board="pi", emulated=emulated, rows=rows, measured={"ttft_warm_s": 0.25})


def rival(name: str, rate: float, kl: float | None, **more: Any) -> Rival:
    quality = Quality(kl=kl, kl_error=more.pop("kl_error", 0.0))
    return Rival(name=name, quality=quality, report=report(rate, **more))


@pytest.mark.parametrize("how", ["fastest", "best"])
def test_the_only_format_stays_without_a_word(how: Any) -> None:
    assert choose([rival("a", 10, 0.1)], how) == (0, "")


@pytest.mark.parametrize("first", [0, 1])
def test_the_fastest_stays_whatever_its_place(first: int) -> None:
    both = [rival("fast", 20, 0.09), rival("good", 10, 0.01)]
    rivals = both if first == 0 else both[::-1]
    assert choose(rivals, "fastest") == (first, "fast stays: it answers fastest")


def test_a_choice_by_speed_on_a_busy_board_says_so() -> None:
    busy = rival("b", 10, 0.1)
    busy.report.measured["contended"] = ["other programs took 54% of the processors"]
    assert choose([rival("a", 20, 0.1), busy], "fastest") == (
        0,
        "a stays: it answers fastest, while other programs ran: measure again on an idle board",
    )
    assert "idle" not in choose([rival("a", 20, 0.1), busy], "best")[1]


def test_where_no_difference_in_speed_is_shown_the_better_one_stays() -> None:
    rivals = [
        rival("a", 20.0, 0.09, noise=0.05),
        rival("b", 19.8, 0.01, noise=0.05),
        rival("c", 5.0, 0.001),
    ]
    number, why = choose(rivals, "fastest")
    assert number == 1
    assert why == (
        "b stays: no difference in speed is shown to a, "
        "and it is nearer to its reference (KL 0.0100)"
    )


def test_the_best_stays_where_quality_is_asked_for() -> None:
    rivals = [rival("fast", 20, 0.09), rival("good", 10, 0.01)]
    number, why = choose(rivals, "best")
    assert (number, why) == (1, "good stays: nearest to its reference (KL 0.0100)")


def test_of_equally_good_ones_the_faster_stays() -> None:
    rivals = [rival("a", 10, 0.010, kl_error=0.002), rival("b", 20, 0.013, kl_error=0.002)]
    assert choose(rivals, "best")[0] == 1
    assert choose([rival("a", 10, 0.010), rival("b", 20, 0.013)], "best")[0] == 0


@pytest.mark.parametrize("how", ["fastest", "best"])
def test_without_a_measure_of_quality_speed_decides(how: Any) -> None:
    assert choose([rival("a", 10, None), rival("b", 20, None)], how)[0] == 1


def test_the_speed_of_an_emulated_board_decides_nothing() -> None:
    rivals = [rival("fast", 20, 0.09, emulated=True), rival("good", 10, 0.01, emulated=True)]
    number, why = choose(rivals, "fastest")
    assert number == 1
    assert why == "good stays: the speed of an emulated board decides nothing"


# What is shown ------------------------------------------------------------------------------------


def _delivery(name: str, rate: float, **more: Any) -> Delivery:
    deployment = Deployment(
        address="pi",
        name="tiny",
        version="1.0",
        release="0" * 64,
        actions=(),
        bytes_sent=0,
        seconds=1.0,
        port=8080,
    )
    return Delivery(
        deployment=deployment,
        question="",
        answer="",
        report=report(rate),
        file=name,
        quality=Quality(kl=0.01, agreement=0.98, exact_match=0.5, size_bytes=1_000_000),
        **more,
    )


def test_every_format_is_shown_with_its_quality_and_its_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = _delivery(
        "a.gguf",
        20,
        others=(_delivery("a.tflite", 10),),
        why="a.gguf stays: it answers fastest",
        left_out={"a.onnx": "pi: too old"},
    )
    show.line._choice(chosen)
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split() == ["a.gguf", "1.0", "MB", *ROW, "20.00", "250", "ms"] for line in lines
    )
    assert any(line.split()[:1] == ["a.tflite"] and "10.00" in line for line in lines)
    assert "a.onnx is left out: pi: too old" in lines
    assert lines[-1] == "a.gguf stays: it answers fastest"


def test_the_size_of_a_model_counts_the_file_with_its_weights(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "bundle").path)
    files = (
        File(path="m.onnx", size=7_000, sha256="0" * 64),
        File(path="m.onnx.data", size=1_500_000, sha256="1" * 64),
    )
    apart = replace(manifest, model="m.onnx", files=files)
    assert quality_of(apart).size_bytes == 1_507_000
    whole = replace(manifest, model="m.onnx.data", files=files)
    assert quality_of(whole).size_bytes == 1_500_000


ROW = ("0.0100", "98.0%", "50.0%", "20.00")


# Formats that the gate refuses --------------------------------------------------------------------

RECIPE = """
title = "two formats"
targets = ["x86-64"]
stages = ["ingest", "quantize", "evaluate", "package"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
[quantize]
formats = ["gguf", "tflite"]
scheme = "Q4_0"
tflite_scheme = "{tflite}"
prefill = [16]
[evaluate]
questions = 2
kl_tokens = 60
max_tokens = 4
goldens = 2
[evaluate.gate]
max_kl = 1e-5
min_agreement = 0
max_general_kl = inf
min_general_agreement = 0
max_eos_drop = 1
template_chats = 1
[package]
context = 128
max_tokens = 16
"""


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, *words: Any, **more: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    tiny_llama(folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(CHATML)
    rows = [{"question": f"what is {number}?", "answer": "a number"} for number in range(24)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def _walk(folder: Path, tflite: str, until: str = "") -> tuple[list[Any], list[str]]:
    (folder / "two.toml").write_text(RECIPE.format(tflite=tflite))
    notes = Notes()
    settings = Settings(out=folder / "work", target=target.find("x86-64"), report=notes)
    return list(walk(recipes.load(folder / "two.toml"), settings, until=until)), notes.notes


@pytest.mark.slow
def test_a_format_that_misses_the_gate_is_left_out_as_long_as_another_passes(
    folder: Path,
) -> None:
    steps, notes = _walk(folder, "fp32")
    bundles = [step.artifact for step in steps if isinstance(step.artifact, Bundle)]
    assert [bundle.path.name for bundle in bundles] == ["package-tflite"]
    assert any(note.startswith("gguf is left out: ") and "KL" in note for note in notes)


@pytest.mark.slow
def test_the_verb_of_the_gate_still_refuses_what_misses_it(folder: Path) -> None:
    with pytest.raises(GateError):
        _walk(folder, "fp32", until="evaluate")


@pytest.mark.slow
def test_if_no_format_passes_each_ones_reason_is_said(folder: Path) -> None:
    with pytest.raises(GateError) as error:
        _walk(folder, "dynamic_wi8_afp32")
    reasons: list[ToolchainError] = [error.value, *error.value.others]
    assert len(reasons) == 2
    assert {reason.message.partition(":")[0].rpartition(".")[2] for reason in reasons} == {
        "gguf",
        "tflite",
    }
