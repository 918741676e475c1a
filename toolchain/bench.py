"""The numbers of a board, measured by its own runtime and read from the host.

bench(Endpoint) → Report. Rows carry llama-bench's field names, so that its readers read them; what a row leaves out
(tokenizing, HTTP) is measured apart as time to first token.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.board.device import Device

Rows = list[dict[str, Any]]
PROMPT_TOKENS, ANSWER_TOKENS = 512, 128
"""llama-bench's tests: pp512 and tg128."""
COLUMNS = (
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "backends",
    "n_threads",
    "n_prompt",
    "n_gen",
    "avg_ts",
    "stddev_ts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was measured on a board, and where."""

    board: str
    emulated: bool
    rows: Rows
    """One a test: llama-bench's fields."""
    measured: dict[str, Any]
    """Everything that is not a rate: seconds, bytes, load."""


def bench(device: Device, *, pp: int = PROMPT_TOKENS, tg: int = ANSWER_TOKENS, repeat: int = 5) -> Report:
    """Measure the board's current release with its runtime; the service keeps running beside it only if it is idle."""
    answer = device.call("bench", "--pp", str(pp), "--tg", str(tg), "--repeat", str(repeat), timeout_s=3600)
    rows = answer.pop("rows")
    return Report(board=device.address, emulated=device.address.startswith("virtual:"), rows=rows, measured=answer)


def render(report: Report, form: str) -> str:
    """Return a report as md, csv, json or jsonl, with llama-bench's columns."""
    return {"md": _markdown, "csv": _csv, "json": _json, "jsonl": _jsonl}[form](report.rows)


def _markdown(rows: Rows) -> str:
    head = ("model", "size", "params", "backend", "threads", "test", "t/s")
    body = [table_row(row) for row in rows]
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, body)])


def table_row(row: dict[str, Any]) -> list[str]:
    """Return one row as llama-bench prints it."""
    size, params = row["model_size"] / 2**20, row["model_n_params"] / 1e6
    rate = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
    return [row["model_type"], f"{size:.2f} MiB", f"{params:.2f} M", row["backends"], str(row["n_threads"]), test_name(row), rate]


def test_name(row: dict[str, Any]) -> str:
    """Return `pp512` or `tg128`."""
    return f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip()


def _json(rows: Rows) -> str:
    return json.dumps(rows, indent=1)


def _jsonl(rows: Rows) -> str:
    return "\n".join(json.dumps(row) for row in rows)
