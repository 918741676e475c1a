"""Writes the result of `make soak` (build/soak.json) into docs/reliability.md, between marks."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATE, PAGE = ROOT / "build" / "soak.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


HEAD = ["| row | test | rounds | seen | seconds |", "|---|---|---|---|---|"]


def table(state: dict[str, dict[str, object]], before: str) -> str:
    """Return the rows, in the order of the promise table.

    Rows of the table `before` stay for tests that did not run, or that have not done all of their
    rounds: a short run must not take away what a long one saw.
    """
    rows = {_test(line): line for line in before.splitlines() if line.startswith("| ")}
    rows.pop("test", None)

    for test, entry in state.items():
        line = _row(test, entry)
        if entry["done"] == entry["whole"] or _test(line) not in rows:
            rows[_test(line)] = line

    return "\n".join([*HEAD, *sorted(rows.values(), key=_order)])


def _row(test: str, entry: dict[str, object]) -> str:
    file, _, name = test.partition("::")
    counts = sorted(dict(entry["seen"]).items())  # type: ignore[call-overload]
    seen = ", ".join(f"{count:,} {what}" for what, count in counts)
    said = name.removeprefix("test_").replace("_", " ")
    done = f"{entry['done']:,} of {entry['whole']:,}"
    return f"| {entry['row']} | [{said}](../{file}) | {done} | {seen} | {entry['seconds']} |"


def _test(line: str) -> str:
    """Return the cell of a row that names its test."""
    return line.split(" | ")[1]


def _order(line: str) -> tuple[int, str]:
    row, test = line.removeprefix("| ").split(" | ")[:2]
    file = test.rpartition("(../")[2]
    return int(row), file + test


def main() -> None:
    """Replace the part between the marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    rows, after = rest.split(END)
    new = table(json.loads(STATE.read_text()), rows)
    PAGE.write_text(f"{before}{BEGIN}\n{new}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
