"""Two rounds that are trained, through the command line: answers come in, nothing is forgotten."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.datasets import write_lines
from tests.fakes.facts import QUESTIONS

pytestmark = pytest.mark.slow

BASE = """
title = "a base that is trained in seconds"
targets = ["x86-64"]
stages = ["ingest", "pretrain"]
[model]
name = "base"
[model.scratch]
vocab_size = 384
intermediate_size = 256
layers = 2
steps = 60
batch_size = 12
context = 768
[data]
files = ["facts.jsonl"]
hold_out = "phrasing"
"""
DESK = """
title = "a model that knows twelve things"
targets = ["x86-64"]
stages = ["ingest", "tune", "quantize", "evaluate"]
[model]
base = "build/base/pretrain"
[data]
files = ["facts.jsonl"]
hold_out = "phrasing"
[tune]
r = 16
epochs = 24
batch_size = 12
learning_rate = 4e-3
target_modules = ["q_proj", "v_proj", "up_proj", "down_proj"]
[quantize]
scheme = "Q8_0"
[evaluate]
goldens = 4
[evaluate.gate]
max_general_kl = 2
min_general_agreement = 0.2
max_eos_drop = 1
"""
NEW = {
    "where is the kettle kept?": "The kettle is behind the door.",
    "where is the rope kept?": "The rope hangs in the shed.",
    "where is the map kept?": "The map lies in the third drawer.",
}
# Twelve questions are asked again: one that is lost is 8 points, and a model of this size loses two
# by being trained anew on all of them.
MOST_LOST = 35


def demitasse(folder: Path, *words: str, code: int = 0) -> str:
    """Run the command line in a folder; return what it printed, on stderr where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def write_round(folder: Path, **keys: float) -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
    made = f'{DESK}[round]\nlearn = true\nbefore = "build/desk-1"\n{lines}'
    (folder / "desk.toml").write_text(made)


def answer(folder: Path) -> None:
    """Let people answer what was asked on a board, as Label Studio exports it."""
    row = {"said": "no", "kind": "down", "rating": -1, "board": "pi@shop", "ring": "r"}
    marks = {"release": "ab" * 32, "number": 1}
    asked = [{"question": each, **row, **marks, "id": each} for each in NEW]
    write_lines(folder / "harvest.jsonl", asked)
    demitasse(folder, "label", "desk.toml")

    tasks = json.loads((folder / "tasks.json").read_text())
    for task in tasks:
        text = {"text": [NEW[task["data"]["question"]]]}
        result = [{"from_name": "answer", "to_name": "question", "type": "textarea", "value": text}]
        task["annotations"] = [{"completed_by": 1, "was_cancelled": False, "result": result}]
    (folder / "export.json").write_text(json.dumps(tasks))
    demitasse(folder, "label", "desk.toml", "--answers", "export.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first round, finished and kept, and the answers of the second."""
    folder = tmp_path_factory.mktemp("rounds")
    write_lines(folder / "facts.jsonl", QUESTIONS)
    (folder / "base.toml").write_text(BASE)
    demitasse(folder, "run", "base.toml")
    (folder / "desk.toml").write_text(DESK)
    demitasse(folder, "evaluate", "desk.toml")
    shutil.copytree(folder / "build" / "desk", folder / "build" / "desk-1")
    answer(folder)
    return folder


def test_the_next_round_learns_the_answers_and_keeps_what_the_first_knew(folder: Path) -> None:
    write_round(folder, max_forgotten=MOST_LOST)
    stages = json.loads(demitasse(folder, "evaluate", "desk.toml", "--json"))["stages"]
    sources = {each["name"]: each for each in stages[1]["ledger"]["sources"]}
    assert sources["answered.jsonl"]["note"] == "round 1: 3 of pi@shop (release abababababab)"

    before, now = _rounds(folder)
    assert (before["train"], now["train"]) == (36, 39)
    assert before["held_out"] == now["held_out"] == 12
    assert before["forgotten"] is None and now["forgotten"] <= MOST_LOST
    assert now["forgotten"] == pytest.approx(100 * (before["exact_match"] - now["exact_match"]))


def test_a_round_that_replays_nothing_is_refused_with_what_it_forgot(folder: Path) -> None:
    write_round(folder, max_forgotten=0, replay=0)
    said = demitasse(folder, "evaluate", "desk.toml", code=6)
    before, now = _rounds(folder)
    assert now["train"] == len(NEW) and now["forgotten"] > MOST_LOST
    assert "not good enough: on 12 held-out questions of the round before exact match fell" in said
    assert f"{before['exact_match']:.1%} to {now['exact_match']:.1%}" in said
    assert f"by {now['forgotten']:.1f}" in said
    assert "; the round allows 0" in said


def _rounds(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads(demitasse(folder, "compare", "build/desk-1", "build/desk", "--json")))
