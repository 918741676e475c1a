"""The text of the benchmark of distillation: labels and pool, and more questions."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from toolchain.artifacts import Dataset
from toolchain.ingest import ingest
from toolchain.progress import SILENT
from toolchain.recipe import DataSpec

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ENTRIES = [
    {"question": ["how hot is it", "is it hot", "hot, is it?"], "answer": "Very hot."},
    {"question": ["how cold is it", "is it cold", "cold, is it?"], "answer": "Very cold."},
]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as the benchmark imports it: from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("distill_data")


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    """A file of two answers with three phrasings each."""
    file = tmp_path / "entries.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in ENTRIES))
    return file


@pytest.fixture
def dataset(entries: Path) -> Dataset:
    """Its data set: a phrasing of each answer is held out."""
    spec = DataSpec(files=(entries.name,), hold_out="phrasing")
    return ingest(spec, entries.parent, entries.parent / "dataset", SILENT, seed=0)


def test_one_phrasing_of_each_answer_is_labelled_and_the_others_are_the_pool(
    data: ModuleType, dataset: Dataset
) -> None:
    labelled, pool = data.split(dataset, 0)
    assert sorted(data.pair(row)[1] for row in labelled) == ["Very cold.", "Very hot."]
    assert len(pool) == len(dataset.train()) - 2
    assert not {data.pair(row)[0] for row in labelled} & {data.pair(row)[0] for row in pool}


def test_more_questions_are_those_of_labelled_answers_without_what_is_held_out(
    data: ModuleType, dataset: Dataset, entries: Path, tmp_path: Path
) -> None:
    hot = [row for row in dataset.train() if data.pair(row)[1] == "Very hot."]
    few = data.with_other_rows(dataset, hot, tmp_path / "few")
    held_out = next(q for q, a in map(data.pair, dataset.held_out()) if a == "Very hot.")
    more = tmp_path / "questions.jsonl"
    rows = [
        {"entry": 0, "question": ["does it burn me", held_out]},
        {"entry": 1, "question": ["does it freeze me"]},
        {"source": "manual.md", "heading": "Heat", "question": ["and the manual?"]},
    ]
    more.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    found = data.more_questions(more, entries, few)
    assert list(map(data.pair, found)) == [("does it burn me", "Very hot.")]
