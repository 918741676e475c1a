"""Recipes with stages in a wrong order, or an unknown format, are refused when they are read."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolchain.checks import Findings
from toolchain.cli import app
from toolchain.errors import ConfigError, ToolError
from toolchain.line.order import check_extras
from toolchain.line.walk import open_recipe

RECIPE = """
title = "a recipe"
targets = ["x86-64"]
stages = {stages}
[model]
base = "some/model"
[data]
files = ["facts.jsonl"]
[quantize]
formats = {formats}
adapter = "{adapter}"
"""
GOOD = '["ingest", "tune", "quantize", "evaluate", "package"]'


def refused(
    folder: Path,
    stages: str = GOOD,
    formats: str = '["gguf"]',
    adapter: str = "merged",
    tables: str = "",
) -> ConfigError:
    recipe = RECIPE.format(stages=stages, formats=formats, adapter=adapter) + tables
    (folder / "r.toml").write_text(recipe)
    with pytest.raises(ConfigError) as caught:
        open_recipe(folder / "r.toml")
    return caught.value


def test_a_stage_without_what_it_needs_is_named_with_the_recipe_and_the_key(tmp_path: Path) -> None:
    error = refused(tmp_path, '["ingest", "package"]')
    assert error.message == "r.toml: stages: `package` needs `quantize` before it"
    assert error.hint == 'such as stages = ["ingest", "quantize", "package"]'
    assert [other.message for other in error.others] == [
        "r.toml: stages: `package` needs `evaluate` before it"
    ]


def test_a_stage_that_comes_too_late_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, '["ingest", "quantize", "tune"]')
    assert error.message == (
        "r.toml: stages: `tune` stands behind `quantize`: what it makes would not be shipped"
    )


@pytest.mark.parametrize(
    ("stage", "table"), [("tune", ""), ("distill", '[distill]\nteacher = "x"\nlayers = 2\n')]
)
def test_what_would_be_learned_over_what_was_preferred_is_refused(
    tmp_path: Path, stage: str, table: str
) -> None:
    tables = f'[align]\nfiles = ["wishes.jsonl"]\n{table}'
    stages = f'["ingest", "align", "{stage}", "quantize"]'
    error = refused(tmp_path, stages, tables=tables)
    assert error.message == (
        f"r.toml: stages: `{stage}` stands behind `align`: what was preferred would be learned over"
    )
    assert error.hint == f"move `align` behind `{stage}`"


def test_an_unknown_stage_is_named_with_the_closest_one(tmp_path: Path) -> None:
    error = refused(tmp_path, '["ingest", "quantise"]')
    assert error.message == "r.toml: stages: unknown stage `quantise`"
    assert error.hint == "did you mean `quantize`?"


def test_an_unknown_format_is_named_with_those_that_exist(tmp_path: Path) -> None:
    error = refused(tmp_path, formats='["ggml"]')
    assert error.message == "r.toml: quantize: formats: unknown format `ggml`"
    assert error.hint == "known: gguf, onnx, tflite"


def test_an_unmerged_adapter_is_refused_for_a_format_that_has_no_place_for_one(
    tmp_path: Path,
) -> None:
    error = refused(tmp_path, formats='["gguf", "tflite"]', adapter="beside")
    assert error.message == (
        "r.toml: quantize: adapter: `beside` is not for tflite: an adapter goes into such a file"
    )


@pytest.mark.parametrize(
    ("stages", "formats", "sentence"),
    [
        ('["ingest", "tune"]', '["gguf"]', "r.toml: stages: tuner is not installed"),
        ('["ingest", "quantize"]', '["tflite"]', "r.toml: quantize: formats: writer is not"),
        ('["ingest", "quantize"]', '["gguf"]', ""),
    ],
)
def test_what_stages_and_formats_need_is_looked_for_before_a_walk(
    stages: str,
    formats: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = tmp_path / "site" / "demitasse-9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(
        "Metadata-Version: 2.1\nName: demitasse\nVersion: 9\n"
        "Requires-Dist: tuner; extra == 'train'\n"
        "Requires-Dist: writer; extra == 'tflite'\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "r.toml").write_text(
        RECIPE.format(stages=stages, formats=formats, adapter="merged")
    )
    recipe = open_recipe(tmp_path / "r.toml")

    findings = Findings()
    check_extras(recipe, recipe.stages, findings)
    messages = [error.message for error in findings.errors if isinstance(error, ToolError)]
    assert "".join(messages).startswith(sentence)
    assert len(messages) == bool(sentence)


def test_the_command_line_ends_with_the_code_of_a_wrong_recipe(tmp_path: Path) -> None:
    refused(tmp_path, '["ingest", "package"]')
    result = CliRunner().invoke(app, ["run", str(tmp_path / "r.toml"), "--dry-run"])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.exit_code == 2
