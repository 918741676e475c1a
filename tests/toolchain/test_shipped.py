"""Shipped recipes are found by name, listed and copied; a person's own file comes first."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolchain import recipe, shipped
from toolchain.cli import app
from toolchain.errors import ConfigError


def said(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", shipped.names())
def test_a_name_is_found_where_no_file_is(name: str, elsewhere: Path) -> None:
    assert shipped.find(Path(name)) == shipped.folder() / f"{name}.toml"


def test_a_persons_own_file_of_that_name_comes_first(elsewhere: Path) -> None:
    Path("starter.toml").write_text("")
    assert shipped.find(Path("starter")) == Path("starter.toml")


@pytest.mark.parametrize("path", ["gone.toml", "folder/starter", "./x/starter.toml"])
def test_a_path_stays_what_it_is(path: str, elsewhere: Path) -> None:
    assert shipped.find(Path(path)) == Path(path)


def test_an_unknown_name_is_refused_with_the_closest_one(elsewhere: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        shipped.find(Path("startr"))
    assert caught.value.message == "startr: no such file, and no shipped recipe of this name"
    assert caught.value.hint == "did you mean `starter`?"


def test_a_name_plans_as_its_file_does(elsewhere: Path) -> None:
    named = json.loads(said("run", "starter", "--dry-run", "--json"))
    filed = json.loads(
        said("run", str(shipped.folder() / "starter.toml"), "--dry-run", "--json"),
    )
    assert named == filed


def test_the_list_names_every_recipe_file() -> None:
    rows = json.loads(said("recipes", "--json"))
    assert [row["name"] for row in rows] == shipped.names()
    assert all(row["title"] and row["target"] and row["model"] for row in rows)


@pytest.mark.parametrize("name", shipped.names())
def test_a_copy_loads_with_its_data(name: str, tmp_path: Path) -> None:
    written = shipped.copy(name, tmp_path)
    copied = recipe.load(tmp_path / f"{name}.toml")
    assert all((tmp_path / file).is_file() for file in copied.data.files)
    assert all(path.is_file() for path in written)


def test_a_copy_writes_nothing_where_one_of_its_files_is(tmp_path: Path) -> None:
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "help-desk.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"help-desk\.jsonl: exists already$"):
        shipped.copy("starter", tmp_path)
    assert not (tmp_path / "starter.toml").exists()


def test_a_copy_into_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: "):
        shipped.copy("starter", tmp_path / "file")


def test_the_copy_verb_says_what_it_wrote(tmp_path: Path) -> None:
    text = said("recipes", "copy", "smollm2", str(tmp_path))
    assert f"wrote {tmp_path / 'smollm2.toml'}" in text
