"""The whole line on a tiny recipe: questions and answers in, a board that answers out, through real
programs only.

Everything is real: training, the gate, an sshd on a loopback port, the service, and the clients
that people use.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.facts import QUESTIONS
from tests.fakes.ports import free_port

pytestmark = pytest.mark.slow

RECIPE = """
title = "a tiny model that knows twelve things"
targets = ["x86-64"]
stages = ["ingest", "pretrain", "tune", "distill", "quantize", "evaluate", "package"]
question = "where is the key kept?"
[model]
name = "tiny"
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
[[data.sources]]
files = ["facts.jsonl"]
licence = "CC-BY-4.0"
attribution = "© 2026 A. Author"
[tune]
r = 8
epochs = 12
batch_size = 12
learning_rate = 2e-3
target_modules = ["q_proj", "v_proj", "up_proj", "down_proj"]
[distill]
layers = [0]
epochs = 12
batch_size = 12
[quantize]
importance = true
[evaluate]
goldens = 4
[evaluate.gate]
max_kl = 2
min_agreement = 0.3
max_general_kl = 2
min_general_agreement = 0.2
max_eos_drop = 1
[package]
context = 768
max_tokens = 48
slots = 2
licence = "Apache-2.0"
"""

ENDED_BY_CTRL_C = (130, -signal.SIGINT)
"""A shell says 130 for both: Python ends by the signal itself where Ctrl-C fell into an `exec` of
text, as imports do them.
"""


@dataclass(frozen=True)
class Line:
    """A finished run and where it happened."""

    folder: Path
    port: int
    environment: dict[str, str]
    said: dict[str, Any]

    def demitasse(self, *words: str, code: int = 0, stdin: str = "", timeout_s: float = 280) -> str:
        """Run the command line and return what it printed on stdout."""
        argv = [sys.executable, "-m", "toolchain", *words]
        done = subprocess.run(
            argv,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=timeout_s,
        )
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def answer(self) -> str:
        return str(self.said["delivery"]["answer"])


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder, port = tmp_path_factory.mktemp("line"), free_port()
    (folder / "tiny.toml").write_text(RECIPE)
    (folder / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    environment = os.environ | {
        "DEMITASSE_ROOT": str(folder / "board"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    empty = Line(folder=folder, port=port, environment=environment, said={})
    said = json.loads(
        empty.demitasse("run", "tiny.toml", "--to", "local", "--port", str(port), "--json")
    )
    made = Line(folder=folder, port=port, environment=environment, said=said)
    yield made
    made.demitasse("stop", "local")


def test_every_stage_is_told_with_its_seconds_and_size(line: Line) -> None:
    stages = line.said["stages"]
    assert [stage["stage"] for stage in stages] == [
        "ingest",
        "pretrain",
        "tune",
        "distill",
        "quantize",
        "evaluate",
        "package",
    ]
    assert all(stage["size_bytes"] > 0 and stage["seconds"] >= 0 for stage in stages)
    assert line.said["delivery"]["deployment"]["bytes_sent"] > 1_000_000
    assert [(row["n_prompt"], row["n_gen"]) for row in line.said["delivery"]["report"]["rows"]] == [
        (512, 0),
        (0, 128),
    ]


def test_a_second_run_does_nothing_and_sends_nothing(line: Line) -> None:
    again = json.loads(
        line.demitasse("run", "tiny.toml", "--to", "local", "--port", str(line.port), "--json")
    )
    assert again["stages"] == line.said["stages"]
    assert again["delivery"]["deployment"]["bytes_sent"] == 0
    assert again["delivery"]["answer"] == line.answer


def test_ask_prints_the_answer(line: Line) -> None:
    assert line.demitasse("ask", "local", "where is the key kept?") == line.answer + "\n"
    assert (
        json.loads(line.demitasse("ask", "local", "where is the key kept?", "--json"))["text"]
        == line.answer
    )
    assert line.demitasse("ask", "local", "-", stdin="where is the key kept?") == line.answer + "\n"


def test_an_empty_question_is_refused(line: Line) -> None:
    assert line.demitasse("ask", "local", " ", code=2).startswith("error: question: empty\n")


def test_a_question_longer_than_the_context_is_refused_with_both_numbers(line: Line) -> None:
    said = line.demitasse("ask", "local", "key " * 900, code=2)
    assert "tokens, the context holds 768 with the answer" in said


def test_chat_answers_line_by_line(line: Line) -> None:
    said = line.demitasse("chat", "local", stdin="where is the key kept?\n")
    assert line.answer in said


def test_curl_gets_the_answer(line: Line) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "where is the key kept?"}]})
    argv = [
        "curl",
        "-sS",
        f"{line.api}/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == line.answer


def test_the_openai_client_gets_the_answer_streaming_and_not(line: Line) -> None:
    from openai import OpenAI

    with OpenAI(base_url=line.api, api_key="none") as client:
        messages: Any = [{"role": "user", "content": "where is the key kept?"}]
        whole = client.chat.completions.create(model="tiny", messages=messages)
        assert whole.choices[0].message.content == line.answer
        chunks = client.chat.completions.create(model="tiny", messages=messages, stream=True)
        assert (
            "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            == line.answer
        )
        assert [model.id for model in client.models.list()] == ["tiny"]


def test_two_slots_answer_many_at_once_as_one_would(line: Line) -> None:
    from openai import OpenAI

    with urllib.request.urlopen(f"{line.api}/health") as health:
        assert json.load(health)["slots"] == 2
    with OpenAI(base_url=line.api, api_key="none") as client, ThreadPoolExecutor(8) as clients:
        messages: Any = [{"role": "user", "content": "where is the key kept?"}]
        asked = [
            clients.submit(client.chat.completions.create, model="tiny", messages=messages)
            for _ in range(8)
        ]
        assert {one.result().choices[0].message.content for one in asked} == {line.answer}


def test_the_llm_command_line_gets_the_answer(line: Line, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: board\n  model_name: tiny\n  api_base: {line.api}\n"
    )
    environment = line.environment | {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    for options in ([], ["--no-stream"]):
        argv = [
            sys.executable,
            "-m",
            "llm",
            "prompt",
            "-m",
            "board",
            *options,
            "where is the key kept?",
        ]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == line.answer.strip()


def test_the_stock_high_level_library_answers_the_goldens_alike(line: Line) -> None:
    from llama_cpp import Llama

    package = line.folder / "build" / "tiny" / "package"
    manifest = json.loads((package / "manifest.json").read_text())
    stock = Llama(str(package / manifest["model"]), n_ctx=768, n_threads=1, verbose=False)
    for golden in map(json.loads, (package / "goldens.jsonl").read_text().splitlines()):
        answered = []
        for token in stock.generate(golden["prompt_tokens"], temp=0.0):
            if token in manifest["stop_ids"] or len(answered) == len(golden["tokens"]):
                break
            answered.append(token)
        assert answered == golden["tokens"]
    stock.close()


def test_bench_prints_llama_benchs_columns(line: Line) -> None:
    said = line.demitasse(
        "bench", "local", "--pp", "64", "--tg", "16", "--repeat", "2", "-o", "csv"
    )
    prompt, decode = csv.DictReader(said.splitlines())
    assert list(prompt)[:4] == ["build_commit", "build_number", "cpu_info", "gpu_info"]
    assert (prompt["n_prompt"], prompt["n_gen"]) == ("64", "0")
    assert (decode["n_prompt"], decode["n_gen"]) == ("0", "16")
    assert float(decode["avg_ts"]) > 0


def test_schemes_are_measured_side_by_side_budgets_and_learned_codes_too(line: Line) -> None:
    (line.folder / "tried.toml").write_text('extends = "tiny"\n[quantize.distill]\ntokens = 3000\n')
    shutil.copytree(
        line.folder / "build" / "tiny",
        line.folder / "build" / "tried",
        ignore=shutil.ignore_patterns("quantize"),
    )
    said = line.demitasse("schemes", "tried.toml", "--schemes", "Q8_0,Q4_0,Q4_0+learned,auto:6bpw")
    head, *rows = said.splitlines()
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    assert head.split()[:4] == ["scheme", "size", "nominal", "bits"]
    assert set(cells) == {"Q8_0", "Q4_0", "Q4_0+learned", "auto:6bpw"}
    assert cells["Q4_0"][:5] == cells["Q4_0+learned"][:5]
    assert float(cells["Q8_0"][5]) < float(cells["Q4_0"][5])


def test_every_record_and_the_board_say_which_text_was_read_under_which_terms(line: Line) -> None:
    read = {each["stage"]: each["ledger"]["sources"] for each in line.said["stages"]}
    assert {stage for stage, sources in read.items() if sources} == {
        *("ingest", "pretrain", "tune", "distill", "evaluate")
    }
    facts = read["tune"][0]
    assert (facts["name"], facts["licence"], facts["use"]) == (
        "facts.jsonl",
        "CC-BY-4.0",
        "trained",
    )
    ledger = json.loads(line.demitasse("status", "local", "--json"))["release"]["ledger"]
    assert [source["sha256"] for source in ledger["sources"]] == [facts["sha256"]]
    assert ledger["terms"]["result"] == "Apache-2.0"
    named = (line.folder / "build" / "tiny" / "package" / "ATTRIBUTION.md").read_text()
    assert "© 2026 A. Author" in named


def test_other_terms_make_nothing_again_but_the_bundle(line: Line, tmp_path: Path) -> None:
    shutil.copytree(line.folder / "build", tmp_path / "build")
    for name in ("tiny.toml", "facts.jsonl"):
        shutil.copy(line.folder / name, tmp_path)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("CC-BY-4.0", "CC0-1.0"))
    elsewhere = Line(folder=tmp_path, port=0, environment=line.environment, said={})
    said = json.loads(elsewhere.demitasse("run", "tiny.toml", "--json"))
    before = {each["stage"]: each["digest"] for each in line.said["stages"]}
    after = {each["stage"]: each["digest"] for each in said["stages"]}
    assert [stage for stage in before if before[stage] != after[stage]] == ["package"]
    assert said["stages"][0]["ledger"]["sources"][0]["licence"] == "CC0-1.0"


def test_status_names_the_release(line: Line) -> None:
    status = json.loads(line.demitasse("status", "local", "--json"))
    assert status["release"]["release"] == line.said["delivery"]["deployment"]["release"]
    assert status["service"]["healthy"]


def test_a_model_that_misses_the_gate_exits_6_and_is_not_packaged(line: Line) -> None:
    strict = RECIPE.replace("max_kl = 2", "max_kl = 0.0000001")
    (line.folder / "strict.toml").write_text(strict)
    shutil.copytree(
        line.folder / "build" / "tiny",
        line.folder / "build" / "strict",
        ignore=shutil.ignore_patterns("package"),
    )
    said = line.demitasse("package", "strict.toml", code=6)
    assert "not good enough: on held-out answers the mean KL divergence from the reference" in said
    assert "the gate allows 1e-07" in said
    assert not (line.folder / "build" / "strict" / "package" / "record.json").exists()


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(line: Line) -> None:
    argv = [sys.executable, "-m", "toolchain", "tune", "tiny.toml", "--out", "interrupted"]
    child = subprocess.Popen(
        argv,
        cwd=line.folder,
        env=line.environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    started = line.folder / "interrupted" / "tiny" / "pretrain" / "started.json"
    while not started.exists():
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=120)[1]
    assert child.returncode in ENDED_BY_CTRL_C, said
    assert "Traceback" not in said
    stages = json.loads(line.demitasse("tune", "tiny.toml", "--out", "interrupted", "--json"))[
        "stages"
    ]
    assert [stage["digest"] for stage in stages] == [
        stage["digest"] for stage in line.said["stages"][:3]
    ]
