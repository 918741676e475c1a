"""Runs the benchmarks of this folder and writes docs/benchmarks.md, a section each.

python benchmarks/run_all.py           all of them
python benchmarks/run_all.py NAME…     those alone; the sections of the others stay as they are
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SHARED = {
    "checkpoints.py",
    "distill_arms.py",
    "distill_claims.py",
    "distill_data.py",
    "measure.py",
    "models.py",
    "onnx_learned.py",
    "onnx_stock.py",
    "search_writer.py",
    "smollm2.py",
    Path(__file__).name,
}
TABLES = {"align.py", "costs.py", "general_replay.py", "labels.py"}
"""Print a table of their own, which another page of the documentation quotes, and no claims."""
HEAD = """# Benchmarks

Each row is one claim against a named peer, measured by `make bench` in one run of its benchmark,
both sides in turns. *Measured* is ours ÷ the peer's, with its 95 % bootstrap interval. A goal that
was missed stays in the table. Take the ratios, not the rates.

"""
COLUMNS = """| claim | peer | goal | measured | 95 % | holds |
|---|---|--:|--:|---|---|
"""
Claim = Mapping[str, Any]
"""One claim as a benchmark prints it: `measure.Claim` as JSON."""


def main() -> None:
    """Run the named benchmarks, or all of them, in turn; write their sections into the page."""
    options = measure.options(__doc__ or "", names=True)
    known = claiming()
    if unknown := set(options.names) - known.keys():
        raise SystemExit(f"there is no benchmark `{min(unknown)}`: {', '.join(known)}")

    found = {
        name: _run(path, quick=options.quick)
        for name, path in known.items()
        if name in (options.names or known)
    }
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    old = PAGE.read_text(encoding="utf-8") if options.names and PAGE.is_file() else ""
    made = {name: section(name, claims) for name, claims in found.items() if claims}
    sections = sections_of(old) | made
    page = HEAD + "\n".join(sections[name] for name in sorted(sections))
    print(page)
    if not options.quick:
        PAGE.write_text(page, encoding="utf-8")


def claiming() -> dict[str, Path]:
    """Return the benchmarks that print claims, by their names."""
    paths = sorted(HERE.glob("*.py"))
    return {path.stem: path for path in paths if path.name not in SHARED | TABLES}


def sections_of(page: str) -> dict[str, str]:
    """Return the sections of a page by their benchmark."""
    sections: dict[str, str] = {}
    for text in page.split("\n## ")[1:]:
        sections[text.split("\n", 1)[0].strip("`")] = f"## {text.rstrip()}\n"
    return sections


def _run(path: Path, *, quick: bool) -> list[dict[str, Any]]:
    print(f"{path.stem} …", file=sys.stderr, flush=True)
    argv = [sys.executable, str(path), "--json", *(["--quick"] if quick else [])]
    claims: list[dict[str, Any]] = json.loads(
        subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    )
    return claims


def section(name: str, claims: Sequence[Claim]) -> str:
    """Return a benchmark's section: its claims as a table, the conditions under it.

    Conditions that all claims share are said once; the others once for the claims that share them.
    """
    conditions = [_conditions(claim) for claim in claims]
    shared = {
        key: value
        for key, value in conditions[0].items()
        if all(other.get(key) == value for other in conditions)
    }

    apart: dict[str, list[str]] = {}
    for claim, own in zip(claims, conditions, strict=True):
        rest = _listed({key: value for key, value in own.items() if key not in shared})
        if rest:
            apart.setdefault(rest, []).append(claim["claim"])

    text = f"## `{name}`\n\n{COLUMNS}" + "".join(map(_row, claims))
    text += "\n" + _wrapped(f"Conditions: {_listed(shared)}.")
    if apart:
        text += "\n"
        text += "".join(_wrapped(f"- *{'; '.join(who)}*: {rest}") for rest, who in apart.items())
    return text


def _row(claim: Claim) -> str:
    low, high = claim["ci"]
    cells = (
        claim["claim"],
        claim["peer"],
        f"{claim['goal']:g}",
        f"{claim['measured']:.2f}",
        f"{low:.2f} … {high:.2f}",
        "yes" if claim["holds"] else "**no**",
    )
    return f"| {' | '.join(cells)} |\n"


def _conditions(claim: Claim) -> dict[str, str]:
    return {
        key.replace("_", " "): _plain(value)
        for key, value in claim["conditions"].items()
        if key != "folder"
    }


def _plain(value: object) -> str:
    """Return a condition's value in words: of a table its entries, in brackets."""
    if isinstance(value, Mapping):
        return f"({', '.join(f'{key} {inner}' for key, inner in value.items())})"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    lines = textwrap.wrap(text, 100, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _listed(conditions: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in conditions.items())


if __name__ == "__main__":
    main()
