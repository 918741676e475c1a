"""Runs recipes with several formats on a board and writes what was measured into docs/engines.md.

python scripts/engines.py RECIPE… [--to BOARD] [--out FOLDER] [--port PORT]

All formats of a recipe are measured in one run. What speaks against the figures, such as other
programs that ran, stands under the table.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "engines.md"
HEAD = (
    "| file | size | KL | agreement | exact | prompt tokens/s | answer tokens/s | first token | |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|---|"
)
Measured = dict[str, Any]


def main() -> None:
    """Run each recipe and write the figures of all of them."""
    options = _options()
    deliveries = [_run(recipe, options) for recipe in options.recipes]
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(written(page, deliveries, datetime.date.today()), encoding="utf-8")


def written(page: str, deliveries: Sequence[Measured], day: datetime.date) -> str:
    """Return the page with the figures of these deliveries in place of earlier ones."""
    boards = " and ".join(dict.fromkeys(_where(each) for each in deliveries))
    lines = [f"{day}, {boards}:", "", HEAD]
    for delivery in deliveries:
        lines += [_row(delivery, stays=True)]
        lines += [_row(other, stays=False) for other in delivery["others"]]
    whys = [delivery["why"] for delivery in deliveries if delivery["why"]]
    minds = sorted({reason for each in deliveries for reason in _against(each)})
    lines += ["", *(f"{why}." for why in whys), *(f"Mind: {reason}." for reason in minds)]
    block = "\n".join(["<!-- figures -->", *lines, "<!-- /figures -->"])
    return re.sub(
        r"<!-- figures -->.*<!-- /figures -->", lambda _: block, page, count=1, flags=re.DOTALL
    )


def _where(delivery: Measured) -> str:
    facts = delivery["report"]["facts"]
    return str(facts.get("cpu_name") or facts.get("model") or delivery["report"]["board"])


def _row(delivery: Measured, *, stays: bool) -> str:
    quality, rows = delivery["quality"], delivery["report"]["rows"]
    rates = {bool(row["n_gen"]): row["median_ts"] for row in rows}
    cells = [
        f"`{delivery['file']}`",
        f"{quality['size_bytes'] / 1e6:.1f} MB",
        f"{quality['kl']:.4f}",
        f"{quality['agreement']:.1%}",
        "–" if quality["exact_match"] is None else f"{quality['exact_match']:.1%}",
        _rate(rates[False]),
        _rate(rates[True]),
        f"{delivery['report']['measured']['ttft_warm_s'] * 1000:.0f} ms",
        "stays" if stays else "",
    ]
    return f"| {' | '.join(cells)} |"


def _rate(tok_s: float) -> str:
    return f"{tok_s:,.0f}" if tok_s >= 100 else f"{tok_s:.2f}"


def _against(delivery: Measured) -> Iterator[str]:
    """Yield what speaks against the figures of a delivery and of its other formats."""
    for each in (delivery, *delivery["others"]):
        for reason in each["report"]["measured"].get("contended", []):
            yield f"the run of `{each['file']}` was not alone: {reason}"


def _run(recipe: Path, options: argparse.Namespace) -> Measured:
    words = ["run", str(recipe), "--to", options.to, "--out", str(options.out), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", *words, "--port", str(options.port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{recipe}: run ended with {done.returncode}")
    delivery: Measured = json.loads(done.stdout)["delivery"]
    return delivery


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE")
    parser.add_argument("--to", default="local", metavar="BOARD")
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--port", type=int, default=8080)
    return parser.parse_args()


if __name__ == "__main__":
    main()
