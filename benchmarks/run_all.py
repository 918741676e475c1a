"""Runs the benchmarks in this folder and writes docs/benchmarks.md.

A row has the claim, its peer, the goal and the measured ratio.

python benchmarks/run_all.py [NAME…]        all of them, or only those; other rows stay as they are
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SHARED = {"checkpoints.py", "measure.py", "models.py", Path(__file__).name}
HEAD = """# Benchmarks

Each row is one claim against a named peer, measured by `make bench` in one run of its benchmark,
interleaved; *measured* is ours ÷ the peer's, with its 95 % bootstrap interval. A missed goal
stays in the table.
Take the ratios, not the rates.

| benchmark | claim | peer | goal | measured | 95 % | holds | conditions |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Run all benchmarks, or those that are named, in turn; write their rows into the page."""
    options = measure.options(__doc__ or "", names=True)
    known = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.name not in SHARED}
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

    rows = (
        _kept(PAGE.read_text(encoding="utf-8") if PAGE.is_file() else "") if options.names else {}
    )
    rows |= {name: [_row(name, claim) for claim in claims] for name, claims in found.items()}
    page = HEAD + "".join(row for name in sorted(rows) for row in rows[name])
    print(page)
    if not options.quick:
        PAGE.write_text(page, encoding="utf-8")


def _kept(page: str) -> dict[str, list[str]]:
    """Return the rows of a page, by benchmark."""
    rows: dict[str, list[str]] = {}
    for line in page.splitlines(keepends=True):
        if line.startswith("| `"):
            rows.setdefault(line.split("`")[1], []).append(line)
    return rows


def _run(path: Path, *, quick: bool) -> list[dict[str, Any]]:
    print(f"{path.stem} …", file=sys.stderr, flush=True)
    argv = [sys.executable, str(path), "--json", *(["--quick"] if quick else [])]
    claims: list[dict[str, Any]] = json.loads(
        subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    )
    return claims


def _row(name: str, claim: dict[str, Any]) -> str:
    low, high = claim["ci"]
    conditions = ", ".join(
        f"{key} {value}" for key, value in claim["conditions"].items() if key != "folder"
    )
    holds = "yes" if claim["holds"] else "**no**"
    measured = f"{claim['measured']:.2f} | {low:.2f} … {high:.2f} | {holds}"
    what = f"{claim['claim']} | {claim['peer']} | {claim['goal']:g}"
    return f"| `{name}` | {what} | {measured} | {conditions} |\n"


if __name__ == "__main__":
    main()
