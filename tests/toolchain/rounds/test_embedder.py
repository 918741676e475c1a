"""`label` with the recipe's own embedder: the real runtime and a tiny embedder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from device.manifest import EMBEDDER
from tests.fakes.datasets import Recorder, write_lines
from tests.fakes.tiny_bert import tiny_bert
from toolchain.cli import app
from toolchain.knowledge.embedder import write_embedder
from toolchain.progress import Silent
from toolchain.recipe import Recipe, load
from toolchain.rounds.embedder import embedder_of
from toolchain.rounds.label import answered_in

CAFE, FAN = "a naïve café", "why is the fan so hot"
DOCUMENTED = "how is power over night"
STAGES = '"ingest", "tune", "know", "quantize", "evaluate", "package"'


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a tiny embedder: it reads capitals and accents as if they were not there."""
    folder = tmp_path_factory.mktemp("bert")
    return write_embedder(tiny_bert(folder / "bert"), folder / EMBEDDER).file.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that answers one question from its data and one from its documents, and a pool."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "faq.jsonl", [{"question": "A NAIVE CAFE", "answer": "yes"}])
    write_lines(tmp_path / "pages.jsonl", [{"question": DOCUMENTED, "answer": "it is off"}])
    (tmp_path / "desk.toml").write_text(
        f'title = "t"\ntargets = ["rpi-5-4gb"]\nstages = [{STAGES}]\n[model]\nbase = "x/y"\n'
        '[data]\nfiles = ["faq.jsonl"]\nheld_out_share = 0\n'
        '[knowledge]\nfiles = ["pages.jsonl"]\nembedder = "x/y"\n'
    )
    write_lines(
        tmp_path / "harvest.jsonl", [*_asked(CAFE, 9), *_asked(FAN, 2), *_asked(DOCUMENTED, 5)]
    )
    return tmp_path


@pytest.fixture
def made(folder: Path, embedder: bytes) -> Recipe:
    """The recipe after its `know`."""
    (folder / "build" / "desk" / "know").mkdir(parents=True)
    (folder / "build" / "desk" / "know" / EMBEDDER).write_bytes(embedder)
    return load(folder / "desk.toml")


def _asked(question: str, times: int) -> list[dict[str, Any]]:
    row = {"question": question, "said": "no", "kind": "down", "rating": -1, "board": "local"}
    marks = {"release": "ab" * 32, "ring": "r"}
    return [{**row, **marks, "number": n, "id": f"{question} {n}"} for n in range(times)]


def _labelled() -> tuple[dict[str, Any], list[str]]:
    """Return what the verb says, and the questions of its tasks in their order."""
    done = CliRunner().invoke(app, ["label", "desk.toml", "--json"])
    assert done.exit_code == 0, done.output
    tasks = json.loads(Path("tasks.json").read_text(encoding="utf-8"))
    return json.loads(done.stdout), [task["data"]["question"] for task in tasks]


@pytest.mark.slow
def test_questions_are_compared_by_the_embedder_that_know_made(made: Recipe) -> None:
    said, questions = _labelled()
    assert (said["by"], said["pool"], said["answered"]) == ("embedder", 2, 2)
    assert questions == [FAN, CAFE], "to the embedder the popular one is answered already"
    assert 9 / 11 <= said["covered_before"] < said["covered"] == pytest.approx(1)


def test_before_know_has_run_words_are_compared_and_it_is_said(folder: Path) -> None:
    said, questions = _labelled()
    assert (said["by"], questions) == ("words", [FAN, CAFE]), "half of its pieces are answered"
    report = Recorder()
    with embedder_of(load(folder / "desk.toml"), Path("build/desk"), report) as embed:
        assert embed is None
    assert report.notes == [
        f"build/desk/know/{EMBEDDER}: not there: words are compared; `demitasse know` makes it"
    ]


@pytest.mark.slow
def test_vectors_have_length_one_whatever_the_question(made: Recipe) -> None:
    texts = ["", "🙂", "树莓派", "x " * 5000, "half \ud800", "line\nline\0end"]
    with embedder_of(made, Path("build/desk"), Silent()) as embed:
        assert embed
        vectors = embed(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)


def test_what_the_documents_answer_by_a_question_of_theirs_does_not_wait(made: Recipe) -> None:
    assert answered_in(made) == ["A NAIVE CAFE", DOCUMENTED]


def test_a_recipe_that_answers_from_documents_alone_can_be_labelled(made: Recipe) -> None:
    recipe = made.model_copy(update={"data": made.data.model_copy(update={"files": ()})})
    assert answered_in(recipe) == [DOCUMENTED]
