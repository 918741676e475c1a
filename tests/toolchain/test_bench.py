"""Rows of a benchmark in the forms that llama-bench's readers read."""

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys

import pytest

from tests.fakes.tiny_gguf import tiny_gguf
from toolchain.artifacts import Report
from toolchain.bench import COLUMNS, FORMS, render

ROW = {
    "model_filename": "m.gguf",
    "model_type": "llama ?B Q4_K - Medium",
    "model_size": 4_582_400,
    "model_n_params": 6_815_744,
    "backends": "CPU",
    "n_threads": 2,
    "avg_ts": 2130.5,
    "stddev_ts": 12.25,
    "samples_ts": [2118.0, 2143.0],
}
REPORT = Report(
    board="local",
    emulated=False,
    measured={},
    rows=[{**ROW, "n_prompt": 512, "n_gen": 0}, {**ROW, "n_prompt": 0, "n_gen": 128}],
)


def test_markdown_is_llama_benchs_table() -> None:
    assert render(REPORT, "md").splitlines() == [
        "| model | size | params | backend | threads | test | t/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| llama ?B Q4_K - Medium | 4.37 MiB | 6.82 M | CPU | 2 | pp512 | 2130.50 ± 12.25 |",
        "| llama ?B Q4_K - Medium | 4.37 MiB | 6.82 M | CPU | 2 | tg128 | 2130.50 ± 12.25 |",
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What a board's own bench prints of a real file."""
    file = tiny_gguf(tmp_path_factory.mktemp("measured") / "it's tiny.gguf")
    plan = ["--pp", "8", "--tg", "4", "--repeat", "2", "--threads", "1"]
    command = [sys.executable, "-m", "device", "bench", "--model", str(file), *plan]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    return Report(board="local", emulated=False, measured={}, rows=json.loads(done.stdout)["rows"])


def test_every_column_of_llama_bench_is_measured(measured: Report) -> None:
    for row in measured.rows:
        assert [column for column in COLUMNS if row.get(column) is None] == []
        assert re.fullmatch("[0-9a-f]{8}", row["build_commit"])


def test_every_form_holds_the_same_rows(measured: Report) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(render(measured, "sql"))
    read = {
        "json": json.loads(render(measured, "json")),
        "jsonl": [json.loads(line) for line in render(measured, "jsonl").splitlines()],
        "csv": list(csv.DictReader(io.StringIO(render(measured, "csv")))),
        "sql": [
            dict(zip(COLUMNS, row, strict=True))
            for row in database.execute(f"SELECT {', '.join(COLUMNS)} FROM llama_bench")
        ],
    }
    database.close()
    for column in COLUMNS:
        for form, rows in read.items():
            expected = [row[column] for row in measured.rows]
            plain = [str(int(value) if isinstance(value, bool) else value) for value in expected]
            found = [row[column] for row in rows]
            found = [int(value) if isinstance(value, bool) else value for value in found]
            assert [str(value) for value in found] == plain, (form, column)


def test_a_report_of_an_older_board_still_renders() -> None:
    for form in FORMS:
        assert "llama ?B Q4_K - Medium" in render(REPORT, form)


def test_csv_has_a_head_and_a_line_for_each_test() -> None:
    rows = list(csv.DictReader(io.StringIO(render(REPORT, "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [("512", "0"), ("0", "128")]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_keeps_every_sample(form: str) -> None:
    text = render(REPORT, form)
    rows = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert rows == REPORT.rows
