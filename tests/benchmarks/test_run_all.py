"""The page of benchmarks: claims as a table, conditions under it, other sections kept."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def run_all(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("run_all")


def claim(name: str, **conditions: object) -> dict[str, Any]:
    return {
        "claim": name,
        "peer": "scp",
        "goal": 1.3,
        "measured": 2.654,
        "ci": (2.181, 3.4),
        "holds": name != "missed",
        "conditions": {"rounds": 7, "folder": "/somewhere", **conditions},
    }


def test_conditions_that_all_share_are_said_once(run_all: ModuleType) -> None:
    text = run_all.section("push", [claim("scp", size_mb=500), claim("missed", size_mb=500)])
    assert text == (
        "## `push`\n"
        "\n"
        "| claim | peer | goal | measured | 95 % | holds |\n"
        "|---|---|--:|--:|---|---|\n"
        "| scp | scp | 1.3 | 2.65 | 2.18 … 3.40 | yes |\n"
        "| missed | scp | 1.3 | 2.65 | 2.18 … 3.40 | **no** |\n"
        "\n"
        "Conditions: rounds 7; size mb 500.\n"
    )


def test_conditions_that_differ_stand_under_those_who_have_them(run_all: ModuleType) -> None:
    claims = [claim("a", peak_mb={"ours": 9}), claim("b", peak_mb={"ours": 9}), claim("c", n=[])]
    text = run_all.section("convert", claims)
    assert text.endswith(
        "\nConditions: rounds 7.\n\n- *a; b*: peak mb (ours 9)\n- *c*: n none\n",
    )


def test_the_sections_of_a_page_are_found_again(run_all: ModuleType) -> None:
    sections = {name: run_all.section(name, [claim("x", shape=name)]) for name in ("fit", "push")}
    page = run_all.HEAD + "\n".join(sections.values())
    assert run_all.sections_of(page) == sections
    assert run_all.sections_of("") == {}


def test_the_page_is_one_that_the_script_writes_and_its_cells_are_short(
    run_all: ModuleType,
) -> None:
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    sections = run_all.sections_of(page)
    assert page == run_all.HEAD + "\n".join(sections[name] for name in sorted(sections))
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert max(len(cell) for row in rows for cell in row.split("|")) < 80


def test_each_benchmark_that_is_run_reads_the_options_of_all(run_all: ModuleType) -> None:
    for path in run_all.claiming().values():
        assert "measure.options(" in path.read_text(encoding="utf-8"), path.name
    for name in run_all.TABLES:
        assert "measure.options(" not in (FOLDER / name).read_text(encoding="utf-8"), name
