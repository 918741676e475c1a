"""Writes the result of `make soak` (build/soak.json) into docs/reliability.md, between marks."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATE, PAGE = ROOT / "build" / "soak.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"


def table(state: dict[str, dict[str, object]]) -> str:
    """Return the rows, in the order of the promise table."""
    lines = ["| row | test | rounds | seen | seconds |", "|---|---|---|---|---|"]
    for test, entry in sorted(state.items(), key=lambda item: (int(str(item[1]["row"])), item[0])):
        file, _, name = test.partition("::")
        counts = sorted(dict(entry["seen"]).items())  # type: ignore[call-overload]
        seen = ", ".join(f"{count:,} {what}" for what, count in counts)
        said = name.removeprefix("test_").replace("_", " ")
        done = f"{entry['done']:,} of {entry['whole']:,}"
        lines.append(
            f"| {entry['row']} | [{said}](../{file}) | {done} | {seen} | {entry['seconds']} |"
        )

    return "\n".join(lines)


def main() -> None:
    """Replace the part between the marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    PAGE.write_text(f"{before}\n{table(json.loads(STATE.read_text()))}\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
