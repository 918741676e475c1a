"""Rows of a benchmark in the forms that llama-bench's readers read."""

import csv
import io
import json

import pytest

from toolchain.artifacts import Report
from toolchain.bench import COLUMNS, render

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


def test_csv_has_a_head_and_a_line_for_each_test() -> None:
    rows = list(csv.DictReader(io.StringIO(render(REPORT, "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [("512", "0"), ("0", "128")]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_keeps_every_sample(form: str) -> None:
    text = render(REPORT, form)
    rows = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
    assert rows == REPORT.rows
