"""Installed, not cloned: in an empty home without the repository, recipes are found by name."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel, laid out as pyproject.toml says, away from the repository."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignore = shutil.ignore_patterns("__pycache__")
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, site / package, ignore=ignore)
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, site / target, ignore=ignore)
    return site


def demitasse(site: Path, home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", *words],
        cwd=home,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_shipped_recipes_are_listed(installed: Path, tmp_path: Path) -> None:
    rows = json.loads(demitasse(installed, tmp_path, "recipes", "--json"))
    assert {row["name"] for row in rows} == {path.stem for path in ROOT.glob("recipes/*.toml")}
    assert all(Path(row["file"]).is_relative_to(installed) for row in rows)


@pytest.mark.slow
def test_a_recipe_plans_by_its_name(installed: Path, tmp_path: Path) -> None:
    steps = json.loads(demitasse(installed, tmp_path, "run", "starter", "--dry-run", "--json"))
    assert steps[0]["what"].startswith("starter/help-desk.jsonl")
    assert steps[-1]["stage"] == "package"


@pytest.mark.slow
def test_a_recipe_is_copied_and_then_found_first(installed: Path, tmp_path: Path) -> None:
    demitasse(installed, tmp_path, "recipes", "copy", "starter")
    recipe = tmp_path / "starter.toml"
    recipe.write_text(recipe.read_text().replace("vocab_size = 3072", "vocab_size = 2048"))
    plan = demitasse(installed, tmp_path, "run", "starter", "--dry-run")
    assert "vocabulary 2048" in plan


@pytest.mark.slow
def test_a_new_recipe_is_written_and_plans_without_a_network(
    installed: Path, tmp_path: Path
) -> None:
    told = json.loads(
        demitasse(installed, tmp_path, "new", "desk", "--board", "rpi-5-4gb", "--json")
    )
    assert (tmp_path / told["recipe"]).is_file()
    steps = json.loads(
        demitasse(installed, tmp_path, "run", "desk", "--dry-run", "--offline", "--json")
    )
    assert [step["stage"] for step in steps] == told["stages"]
