"""A walk in which a teacher of other tokens writes for a student: text, ledger, reference."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama, tiny_qwen2
from tests.fakes.openai import Handler, answer, openai
from toolchain import recipe, target
from toolchain.artifacts import Artifact, recorded
from toolchain.distill import DistillFigures
from toolchain.figures import VerdictFigures
from toolchain.line.sources import sources_of
from toolchain.line.walk import Settings, walk
from toolchain.progress import Silent

RECIPE = """
title = "a student"
targets = ["x86-64"]
stages = ["ingest", "distill", "quantize", "evaluate"]
[model]
base = "base"
[data]
files = ["facts.jsonl"]
hold_out = "phrasing"
[[data.sources]]
files = ["facts.jsonl", "asked.txt"]
licence = "CC-BY-4.0"
[distill]
student = "student"
student_licence = "MIT"
loss = "labels"
epochs = 1
questions = 2
[distill.write]
teacher = "TEACHER"
teacher_model = "large"
teacher_licence = "Apache-2.0"
questions = ["asked.txt"]
[quantize]
scheme = "F16"
[evaluate]
questions = 2
kl_tokens = 100
max_tokens = 8
[evaluate.gate]
max_kl = 1
min_agreement = 0.1
max_eos_drop = 1
"""
SMALL = {"hidden": 64, "intermediate": 64, "heads": 2, "kv_heads": 1}


def reply(handler: Handler, body: dict[str, Any]) -> None:
    choice = {"index": 0, "message": {"content": "Nobody knows."}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    answer(handler, 200, {"choices": [choice], "usage": usage})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny_llama(folder / "base", layers=2, **SMALL)
    tiny_qwen2(folder / "student", layers=1, **SMALL)
    rows = [json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS]
    (folder / "facts.jsonl").write_text("".join(rows))
    (folder / "asked.txt").write_text("who painted the door\nwhy is the moon there\n")
    return folder


@pytest.fixture(scope="module")
def steps(desk: Path) -> dict[str, Artifact]:
    settings = Settings(
        out=desk / "out", target=target.find("x86-64"), report=Silent(), offline=True
    )
    with openai(reply) as server:
        (desk / "r.toml").write_text(RECIPE.replace("TEACHER", server.url))
        walked = walk(recipe.load(desk / "r.toml"), settings)
        return {step.stage: step.artifact for step in walked if step.artifact}


def test_a_student_of_other_tokens_learns_what_an_endpoint_wrote(
    desk: Path, steps: dict[str, Artifact]
) -> None:
    figures = DistillFigures.read(steps["distill"].record.figures)
    assert (figures.written, figures.before and figures.before.unlabelled) == (2, 2)
    assert figures.student and figures.control
    assert figures.student.training.steps >= figures.control.training.steps
    tokenizer = (steps["distill"].path / "tokenizer.json").read_bytes()
    assert tokenizer == (desk / "student" / "tokenizer.json").read_bytes()
    written = recorded(desk / "out" / "written")
    assert written and written.inputs["teacher"]
    assert steps["distill"].record.inputs["written"] == written.digest
    assert not (desk / "out" / "teacher-logits").exists()


def test_the_gate_compares_no_teacher_of_other_tokens(steps: dict[str, Artifact]) -> None:
    measured = VerdictFigures.read(steps["evaluate"].record.figures).measured
    assert measured.teacher_kl is None
    assert measured.mean_kl < 0.01


def test_the_ledger_names_who_wrote_and_from_what_and_no_address(
    steps: dict[str, Artifact],
) -> None:
    ledger = steps["distill"].record.ledger
    assert ledger
    found = {source.name: (source.role, source.use, source.licence) for source in ledger.sources}
    assert found["large"] == ("teacher", "outputs", "Apache-2.0")
    assert found["asked.txt"] == ("questions", "trained", "CC-BY-4.0")
    assert found["student"] == ("student", "weights", "MIT")
    assert "127.0.0.1" not in ledger.model_dump_json()
    assert ledger.done[0].startswith("distill: learned from ")
    is_taught = steps["distill"].record.figures["shipped"] == "student"
    taught = ("distill: 2 conversations of a teacher among them",) if is_taught else ()
    assert ledger.done[1:] == taught


def test_documents_are_trained_on_where_they_are_written_from(tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text('{"question": "q", "answer": "a"}\n')
    (tmp_path / "manual.md").write_text("# A\n\ntext\n")
    text = RECIPE.replace('questions = ["asked.txt"]', 'documents = ["*.md"]')
    (tmp_path / "r.toml").write_text(text.replace(', "asked.txt"', ""))
    found = {each.name: each for each in sources_of(recipe.load(tmp_path / "r.toml"))}
    assert (found["manual.md"].role, found["manual.md"].use) == ("documents", "trained")
