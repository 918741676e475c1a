"""Runs every benchmark beside this file and writes docs/benchmarks.md: each claim, its peer, the goal and what was measured."""

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

Each row is one claim against a named peer, measured by `make bench` in one run, interleaved; *measured* is ours ÷ the peer's,
with its 95 % bootstrap interval. A goal that was missed stays in the table. Take the ratios, not the rates.

| benchmark | claim | peer | goal | measured | 95 % | holds | conditions |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Run all benchmarks, one after the other, and write the page."""
    options = measure.options(__doc__ or "")
    found = {path.stem: _run(path, quick=options.quick) for path in sorted(HERE.glob("*.py")) if path.name not in SHARED}
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
        return
    page = HEAD + "".join(_row(name, claim) for name, claims in found.items() for claim in claims)
    print(page)
    if not options.quick:
        PAGE.write_text(page, encoding="utf-8")


def _run(path: Path, *, quick: bool) -> list[dict[str, Any]]:
    print(f"{path.stem} …", file=sys.stderr, flush=True)
    argv = [sys.executable, str(path), "--json", *(["--quick"] if quick else [])]
    claims: list[dict[str, Any]] = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    return claims


def _row(name: str, claim: dict[str, Any]) -> str:
    low, high = claim["ci"]
    conditions = ", ".join(f"{key} {value}" for key, value in claim["conditions"].items() if key != "folder")
    measured = f"{claim['measured']:.2f} | {low:.2f} … {high:.2f} | {'yes' if claim['holds'] else '**no**'}"
    return f"| `{name}` | {claim['claim']} | {claim['peer']} | {claim['goal']:g} | {measured} | {conditions} |\n"


if __name__ == "__main__":
    main()
