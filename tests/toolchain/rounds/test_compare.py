"""`compare` of two rounds, by what their stages recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.fakes.records import record_of
from toolchain.artifacts import RECORD
from toolchain.cli import app
from toolchain.errors import ArtifactError
from toolchain.figures import (
    DatasetFigures,
    Forgotten,
    KnowledgeFigures,
    Lengths,
    Measured,
    SearchScores,
    VerdictFigures,
)

CHARS = Lengths(mean=1, max=1)


def ingested(train: int) -> dict[str, Any]:
    figures = DatasetFigures(
        entries=train,
        documents=0,
        train=train,
        held_out=12,
        texts=0,
        question_chars=CHARS,
        answer_chars=CHARS,
        text_chars=CHARS,
        dropped={},
        dropped_lines=[],
        unknown_keys={},
    )
    return figures.as_json()


def known(right: float) -> dict[str, Any]:
    scores = SearchScores(
        answerable=4, unanswerable=2, first=1, among_three=1, right=right, wrong=0, false=0
    )
    figures = KnowledgeFigures(
        passages=415,
        questions=1380,
        unanswered=240,
        files={},
        width=384,
        embedder_bytes=1,
        index_bytes=1,
        tuned=True,
        fitted={},
        tuning=None,
        fresh=scores,
    )
    return figures.as_json()


def judged(exact_match: float, forgotten: Forgotten | None = None) -> dict[str, Any]:
    figures = VerdictFigures(
        engine="1",
        engine_name="llama.cpp",
        arithmetic="",
        measured=Measured(exact_match=exact_match, f1=0.9),
        forgotten=forgotten,
        failures=[],
    )
    return figures.as_json()


def round_of(work: Path, **stages: dict[str, Any]) -> Path:
    """Write a work folder as finished stages leave it."""
    for stage, figures in stages.items():
        (work / stage).mkdir(parents=True)
        (work / stage / RECORD).write_text(record_of(stage, figures).model_dump_json())
    return work


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return round_of(tmp_path / "desk-1", ingest=ingested(36), know=known(0.5), evaluate=judged(0.8))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    lost = Forgotten(questions=200, before=0.8, now=0.79, error=0.004)
    return round_of(tmp_path / "desk", ingest=ingested(39), evaluate=judged(0.85, lost))


def compared(*words: str) -> str:
    done = CliRunner().invoke(app, ["compare", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_two_rounds_stand_side_by_side(first: Path, second: Path) -> None:
    lines = compared(str(first), str(second)).splitlines()
    cells = [tuple(line.rsplit(maxsplit=2)) for line in lines if line.strip("─- ")]
    assert cells == [
        ("round", "desk-1", "desk"),
        ("conversations learned", "36", "39"),
        ("held out", "12", "12"),
        ("passages", "415", "-"),
        ("fresh questions answered rightly from documents", "50.0%", "-"),
        ("exact match", "80.0%", "85.0%"),
        ("token F1", "90.0%", "90.0%"),
        ("forgotten of the round before, in points", "-", "1.0"),
        ("± error", "-", "0.4"),
    ]


def test_the_same_figures_come_as_json_with_null_for_what_there_is_not(
    first: Path, second: Path
) -> None:
    before, now = json.loads(compared(str(first), str(second), "--json"))
    assert (before["name"], before["right"], before["forgotten"]) == ("desk-1", 0.5, None)
    assert (now["name"], now["right"], now["train"]) == ("desk", None, 39)
    assert (now["forgotten"], now["forgotten_error"]) == (pytest.approx(1), pytest.approx(0.4))


def test_a_round_with_another_format_is_told_by_its_first(first: Path, tmp_path: Path) -> None:
    other = round_of(tmp_path / "b", **{"evaluate-onnx": judged(0.1), "evaluate": judged(0.7)})
    before, now = json.loads(compared(str(other), str(first), "--json"))
    assert (before["exact_match"], now["exact_match"]) == (0.7, 0.8)


def test_a_folder_that_is_no_round_is_refused_by_its_name(first: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["compare", str(first), str(tmp_path / "empty")])
    assert isinstance(done.exception, ArtifactError)
    assert str(done.exception).startswith(f"{tmp_path / 'empty'}: no stage is recorded in it")
