"""The page of what was found in the data of a recipe."""

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tests.fakes.datasets import write_lines
from toolchain.cli import app
from toolchain.errors import ArtifactError
from toolchain.ingest import ingest
from toolchain.progress import Silent
from toolchain.recipe import DataSpec

ROWS = [
    {"question": "我的手机13912345678收不到短信", "answer": "<p>写信到li@firma.de</p>"},
    {"question": "which fan?", "answer": "A quiet one."},
]


def page(folder: Path, **spec: Any) -> str:
    """Return the page of a work folder whose data was read."""
    write_lines(folder / "a.jsonl", ROWS)
    given = DataSpec.model_validate({"files": ("a.jsonl",), **spec})
    ingest(given, folder, folder / "desk" / "ingest", Silent(), seed=0)
    out = folder / "page.html"
    result = CliRunner().invoke(app, ["report", str(folder / "desk"), "--out", str(out)])
    assert result.exit_code == 0
    return out.read_text("utf-8")


def test_the_page_counts_by_kind_and_by_file_and_shows_no_value(tmp_path: Path) -> None:
    html = page(tmp_path)
    for cells in ("<td>phone</td><td>1 found</td>", "<td>html</td><td>1 found</td>"):
        assert cells in html
    assert "<td>a.jsonl</td><td>email</td><td>1 found</td>" in html
    assert "<td>JSON lines, questions and answers</td><td>2</td>" in html
    assert "Not looked for: names without a cue" in html
    assert "13912345678" not in html


def test_the_page_of_data_alone_claims_no_measurement_and_names_the_lines(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "with the runtime that serves" not in html
    assert "nothing was measured on a board" in html
    assert "<code>findings.jsonl</code> in the folder of <code>ingest</code>" in html
    looked, dirt = html.index("Not looked for:"), html.index("<h3>Dirt</h3>")
    assert html.index("<h3>Personal data</h3>") < looked < dirt


def test_what_nobody_looked_for_is_not_measured(tmp_path: Path) -> None:
    html = page(tmp_path, redact={"mode": "off"}, clean={"mode": "off"})
    assert html.count("not measured: the recipe turns this off") == 2


def test_data_without_a_finding_says_so(tmp_path: Path) -> None:
    html = page(tmp_path, redact={"kinds": ["plate"]}, clean={"html": False})
    assert html.count("none was found") == 2


def test_a_folder_without_data_and_without_documents_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "a.html")])
    assert isinstance(result.exception, ArtifactError)
