"""Verbs that read data: a dry run shows it as it was understood, --map names its keys."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from toolchain.cli import app
from toolchain.errors import ArtifactError, ConfigError, ToolchainError

RECIPE = """
title = "a test"
targets = ["rpi-4b-2gb"]
stages = ["ingest", "pretrain", "quantize", "evaluate", "package"]
[model.scratch]
[data]
files = ["a.csv"]
held_out_share = 0.5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = "".join(f"frage {n},antwort {n}\n" for n in range(12))
    (tmp_path / "a.csv").write_text(f"frage,antwort\n{rows}")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path / "r.toml"


def said(recipe: Path, *words: str) -> Result:
    out = str(recipe.parent / "out")
    return CliRunner().invoke(app, ["ingest", str(recipe), "--out", out, *words])


MAP = ("--map", "question=frage,answer=antwort")


def test_a_dry_run_shows_the_form_and_the_first_rows_and_writes_nothing(recipe: Path) -> None:
    result = said(recipe, *MAP, "--dry-run")
    assert result.exit_code == 0
    assert "a.csv: CSV, questions and answers, by `map`, 12 rows" in result.stdout
    assert "a.csv:4 question: frage 2" in result.stdout
    assert not (recipe.parent / "out").exists()


def test_names_of_the_command_line_read_the_data(recipe: Path) -> None:
    assert said(recipe, *MAP).exit_code == 0
    assert (recipe.parent / "out" / "r" / "ingest" / "record.json").is_file()


def test_without_names_the_first_bad_line_says_what_to_type(recipe: Path) -> None:
    error = said(recipe).exception
    assert isinstance(error, ArtifactError)
    assert error.message == "a.csv:2: missing key `question`"
    assert error.hint.endswith("--map question=frage,answer=antwort")


@pytest.mark.parametrize("names", ["frage", "question=", "=frage", "foo=bar", "question=frage"])
def test_names_that_are_none_are_refused(recipe: Path, names: str) -> None:
    error = said(recipe, "--map", names).exception
    assert isinstance(error, ConfigError)
    assert error.message == f"--map: `{names}` is no list of names"


def test_pages_alone_cannot_be_tuned_on_and_the_hint_says_what_they_are_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Heat\n\nIt is hot.")
    recipe = TUNED.format(base=tmp_path / "none")
    (tmp_path / "r.toml").write_text(recipe)
    error = said(tmp_path / "r.toml", "--dry-run").exception
    assert error is None
    error = CliRunner().invoke(app, ["tune", str(tmp_path / "r.toml"), "--dry-run"]).exception
    errors = [error, *error.others] if isinstance(error, ToolchainError) else []
    hints = {each.message: each.hint for each in errors if isinstance(each, ToolchainError)}
    assert hints["docs: no conversation to learn from, which `tune` needs: no entry in them"] == (
        "pages are plain text for `pretrain`; with `[knowledge]` a board answers from them"
    )


TUNED = """
title = "a test"
targets = ["rpi-4b-2gb"]
[model]
base = "{base}"
[data]
files = ["docs"]
"""
