"""The numbers of a board, measured by its own runtime and read from the host.

bench(Endpoint) → Report. Rows carry llama-bench's field names, so that its readers read them; what
a row leaves out (tokenizing, HTTP) is measured apart as time to first token.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from toolchain.artifacts import Report
from toolchain.board.device import Device
from toolchain.errors import BoardError
from toolchain.report import test_name

Rows = list[dict[str, Any]]
PROMPT_TOKENS, ANSWER_TOKENS = 512, 128
"""llama-bench's tests: pp512 and tg128."""
MOST_S = 86_400.0
"""Longest --sustained: a day."""
FACTS = (
    "model",
    "machine",
    "cpu_name",
    "cores",
    "memory_total_mb",
    "kernel",
    "os_name",
    "glibc",
    "python",
    "l4t",
)
"""What of a board's facts belongs to its figures."""
_TEXTS = (
    *("build_commit", "cpu_info", "gpu_info", "backends", "model_filename", "model_type"),
    *("cpu_mask", "type_k", "type_v", "split_mode", "devices", "tensor_split"),
    *("tensor_buft_overrides", "load_mode", "lazy_mode", "test_time"),
)
_RATES = ("avg_ts", "stddev_ts")
COLUMNS = (
    *("build_commit", "build_number", "cpu_info", "gpu_info", "backends"),
    *("model_filename", "model_type", "model_size", "model_n_params", "n_batch", "n_ubatch"),
    *("n_threads", "cpu_mask", "cpu_strict", "poll", "type_k", "type_v", "n_gpu_layers"),
    *("n_cpu_moe", "split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices"),
    *("tensor_split", "tensor_buft_overrides", "load_mode", "lazy_mode", "embeddings"),
    *("no_op_offload", "no_host", "repack", "fit_target", "fit_min_ctx"),
    *("n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", *_RATES),
)
"""Columns of llama-bench, in its order (tools/llama-bench, `test::get_fields`)."""
# scripts/compare-llama-bench.py of llama.cpp needs most of them.
FORMS = ("md", "csv", "json", "jsonl", "sql")


def bench(
    device: Device,
    *,
    pp: int = PROMPT_TOKENS,
    tg: int = ANSWER_TOKENS,
    repeat: int = 5,
    sustained_s: float = 0.0,
) -> Report:
    """Measure the board's current release with its runtime, and its service if that is idle.

    Raises BoardError for a speed that the board's own memory could not feed: such a figure is a
    mistake of the measurement.
    """
    wanted = (
        "--pp",
        str(pp),
        "--tg",
        str(tg),
        "--repeat",
        str(repeat),
        "--sustained",
        str(sustained_s),
    )
    answer = device.call("bench", *wanted, timeout_s=3600 + sustained_s)
    report = Report(
        board=device.address,
        emulated=device.kind.emulated,
        rows=answer.pop("rows"),
        measured=answer,
        facts={name: value for name, value in device.facts().items() if name in FACTS},
    )
    _refuse_impossible(report)
    return report


def _refuse_impossible(report: Report) -> None:
    roof = report.measured.get("roofline", {})
    if roof.get("impossible"):
        rate = next(row["median_ts"] for row in report.rows if row["n_gen"])
        needed = rate * roof["bytes_per_token"] / 1e9
        raise BoardError(
            f"{report.board}: {rate:g} tokens/s would read {needed:.1f} GB/s, "
            f"the memory gives {roof['bandwidth_gb_s']:g}: "
            "this cannot be true",
            hint="close what else runs and measure again",
        )


def render(report: Report, form: str) -> str:
    """Return a report in one of `FORMS`, with llama-bench's columns."""
    forms = {"md": _markdown, "csv": _csv, "json": _json, "jsonl": _jsonl, "sql": _sql}
    return forms[form](report.rows)


def _markdown(rows: Rows) -> str:
    head = ("model", "size", "params", "backend", "threads", "test", "t/s")
    body = [table_row(row) for row in rows]
    return "\n".join([_line(head), _line(["---"] * len(head)), *map(_line, body)])


def table_row(row: dict[str, Any]) -> list[str]:
    """Return one row as llama-bench prints it; `-` where an endpoint does not tell."""
    size, params = row["model_size"] / 2**20, row["model_n_params"] / 1e6
    rate = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
    return [
        row["model_type"],
        f"{size:.2f} MiB" if size else "-",
        f"{params:.2f} M" if params else "-",
        row["backends"] or "-",
        str(row["n_threads"] or "-"),
        test_name(row),
        rate,
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _csv(rows: Rows) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _plain(row.get(column, "")) for column in COLUMNS} for row in rows)
    return text.getvalue().rstrip()


def _json(rows: Rows) -> str:
    return json.dumps(rows, indent=1)


def _jsonl(rows: Rows) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def _sql(rows: Rows) -> str:
    """Return the rows as llama-bench writes them for `sqlite3`, in a table of its name."""
    types = {**dict.fromkeys(_TEXTS, "TEXT"), **dict.fromkeys(_RATES, "REAL")}
    columns = ",\n".join(f"  {column} {types.get(column, 'INTEGER')}" for column in COLUMNS)
    lines = [f"CREATE TABLE IF NOT EXISTS llama_bench (\n{columns}\n);"]
    for row in rows:
        values = ", ".join(_quoted(row.get(column, "")) for column in COLUMNS)
        head = f"INSERT INTO llama_bench ({', '.join(COLUMNS)})"
        lines.append(f"{head} VALUES ({values});")
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    return "'" + str(_plain(value)).replace("'", "''") + "'"


def _plain(value: Any) -> Any:
    """Return a value as llama-bench writes it where there are no types: true is 1."""
    return int(value) if isinstance(value, bool) else value
