"""Reports of boards: stored as JSON, compared with an interval, shown as one HTML page.

A report's rows are llama-bench's, so output of llama-bench itself (`-o json`, `-o jsonl`) can be
compared too.
"""

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import Figures, Report
from toolchain.errors import ArtifactError
from toolchain.files import write_whole

RESAMPLES = 10_000
CLIENT_SIDE = (
    "measured from the client's side over HTTP: network, queue, chat template and tokenizer "
    "are part of it"
)
"""Reason why the figures of an endpoint are not those of its engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One test in two reports."""

    test: str
    first: float
    """Median tokens a second of the first report."""
    second: float
    ratio: float
    """The second's median ÷ the first's."""
    low: float
    high: float
    """95 % bootstrap interval of the ratio."""
    caveats: tuple[list[str], list[str]]
    """Reasons why the first's and the second's figures may not be what their boards can do.

    The interval knows nothing of them."""

    @property
    def verdict(self) -> str:
        """Return in words what the interval says."""
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "no difference shown"


def save(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    write_whole(path, json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> Report:
    """Return a stored report, or llama-bench's rows as one; raise ArtifactError for other files."""
    try:
        found = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as a report",
            hint="`demitasse bench BOARD --save FILE` makes one",
        ) from error

    if isinstance(found, dict) and {"board", "emulated", "rows", "measured"} <= found.keys():
        return Report(
            **{name: found[name] for name in ("board", "emulated", "rows", "measured")},
            facts=found.get("facts", {}),
        )

    rows = found if isinstance(found, list) else [found]
    if not rows or not all(
        isinstance(row, dict) and {"n_prompt", "n_gen", "samples_ts"} <= row.keys() for row in rows
    ):
        raise ArtifactError(
            f"{path}: holds neither a report nor rows of llama-bench",
            hint="with their samples: -o json or -o jsonl",
        )

    return Report(board=path.stem, emulated=False, rows=rows, measured={})


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def compare(first: Report, second: Report) -> list[Comparison]:
    """Return each test that both reports hold; raise ArtifactError if there is none.

    The interval is that of independent runs: of two boards, or of one before and after a change.
    """
    pairs = [
        (test_name(row), row, other)
        for row in first.rows
        for other in second.rows
        if test_name(row) == test_name(other)
    ]
    if not pairs:
        tests = " and ".join(
            ", ".join(test_name(row) for row in report.rows) for report in (first, second)
        )
        raise ArtifactError(f"{first.board} and {second.board}: no test is in both: {tests}")

    both = caveats(first), caveats(second)
    return [
        _compared(test, row["samples_ts"], other["samples_ts"], both) for test, row, other in pairs
    ]


def test_name(row: Figures) -> str:
    """Return `pp512` or `tg128`."""
    return f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"


def _compared(
    test: str, first: Sequence[float], second: Sequence[float], both: tuple[list[str], list[str]]
) -> Comparison:
    draw = random.Random(0)  # noqa: S311
    drawn = sorted(
        statistics.median(draw.choices(second, k=len(second)))
        / statistics.median(draw.choices(first, k=len(first)))
        for _ in range(RESAMPLES)
    )
    one, two = statistics.median(first), statistics.median(second)
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
    return Comparison(
        test=test, first=one, second=two, ratio=two / one, low=low, high=high, caveats=both
    )


def caveats(report: Report) -> list[str]:
    """Return reasons why a report's figures may not be what the board can do, a sentence each."""
    measured = report.measured
    after = report.measured.get("after", {})
    found = (
        ["an emulated board: its speed says nothing about a real one"] if report.emulated else []
    )
    if "client_side" in measured:
        found.append(CLIENT_SIDE)
    found += [f"the run was not alone: {reason}" for reason in measured.get("contended", [])]
    throttled = sorted(
        {
            flag
            for sample in [*measured.get("samples", []), after]
            for flag in sample.get("throttled") or []
        }
    )
    found += (
        [f"the board held itself back: {', '.join(throttled).replace('_', ' ')}"]
        if throttled
        else []
    )
    governor = measured.get("before", {}).get("governor")
    return (
        [*found, f"the governor was `{governor}`"]
        if governor not in (None, "performance")
        else found
    )
