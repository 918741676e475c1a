"""The page of engines gets the figures of a run, and what speaks against them."""

import datetime
from typing import Any

from scripts.engines import written

PAGE = "before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n"


def _delivery(file: str, rate: float, **more: Any) -> dict[str, Any]:
    rows = [{"n_gen": 0, "median_ts": 900.0}, {"n_gen": 128, "median_ts": rate}]
    quality = {"kl": 0.01, "agreement": 0.98, "exact_match": None, "size_bytes": 1_200_000}
    measured = {"ttft_warm_s": 0.05, "contended": more.pop("contended", [])}
    report = {"board": "local", "facts": {"cpu_name": "Xeon"}, "rows": rows, "measured": measured}
    return {"file": file, "quality": quality, "report": report, "others": [], "why": "", **more}


def test_figures_replace_the_old_ones_and_say_what_speaks_against_them() -> None:
    chosen = _delivery(
        "a.gguf",
        20.0,
        others=[_delivery("a.tflite", 10.0, contended=["other programs took 80%"])],
        why="a.gguf stays: it answers fastest",
    )
    page = written(PAGE, [chosen], datetime.date(2026, 11, 27))
    assert page.startswith("before\n<!-- figures -->\n2026-11-27, Xeon:\n")
    assert page.endswith("<!-- /figures -->\nafter\n") and "old" not in page
    row = "| `a.gguf` | 1.2 MB | 0.0100 | 98.0% | – | 900 | 20.00 | 50 ms | stays |"
    assert row in page.splitlines()
    assert "| `a.tflite` | 1.2 MB | 0.0100 | 98.0% | – | 900 | 10.00 | 50 ms |  |" in page
    assert "Mind: the run of `a.tflite` was not alone: other programs took 80%." in page
    assert "a.gguf stays: it answers fastest." in page
