"""The plots of a report, as SVG in the colour of the page around it."""

import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from toolchain.artifacts import Figures, Report

INK = "#010203"
"""Colour that is drawn with; the page's own colour replaces it."""
COLOURS = ("#b5622a", "#3f7fb0", "#6b9a4b", "#a05fa8", "#c0a030")
LEAST_AREA, AREA_PER_MB = 60.0, 0.4


def quality_and_speed(reports: Sequence[Report]) -> str:
    """Return a plot of quality against speed; "" without a point.

    Each release is a circle with its size as area. A line joins those that no other beats.
    """
    points = [point for report in reports if (point := _point(report))]
    if not points:
        return ""

    with _figure(6.4, 3.6) as (axes, done):
        for number, (rate, kl, size, name) in enumerate(points):
            area = LEAST_AREA + size / 1e6 * AREA_PER_MB
            axes.scatter(
                rate, kl, s=area, color=COLOURS[number % len(COLOURS)], alpha=0.75, linewidth=0
            )
            axes.annotate(
                name, (rate, kl), xytext=(8, 4), textcoords="offset points", fontsize=8, color=INK
            )
        front = pareto([(rate, kl) for rate, kl, _, _ in points])
        axes.plot(
            [rate for rate, _ in front],
            [kl for _, kl in front],
            color=INK,
            linewidth=0.8,
            linestyle=":",
        )
        axes.set_yscale("log")
        axes.invert_yaxis()
        axes.margins(x=0.25, y=0.25)
        axes.set_xlabel("tokens/s while answering")
        axes.set_ylabel("KL to the teacher, nats\n(better is up)")
        return done()


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both speed (more) and KL (less), slowest first."""
    best: list[tuple[float, float]] = []
    for rate, kl in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not best or kl < best[-1][1]:
            best.append((rate, kl))
    return best[::-1]


def where_time_goes(report: Report) -> str:
    """Return the parts of one answer's time as a bar; "" if no answer was measured."""
    answer = report.measured.get("answer")
    if not answer:
        return ""

    parts = [("loading the model", report.measured["load_s"]), *answer["seconds"].items()]
    whole = sum(seconds for _, seconds in parts)
    with _figure(6.4, 1.5) as (axes, done):
        left = 0.0
        for number, (name, seconds) in enumerate(parts):
            label = f"{name} {_seconds(seconds)}"
            axes.barh(
                0, seconds, left=left, color=COLOURS[number % len(COLOURS)], label=label, height=0.6
            )
            left += seconds
        axes.set_xlim(0, whole)
        axes.set_yticks([])
        axes.set_xlabel(f"seconds, to an answer of {answer['tokens']} tokens after a cold start")
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=3,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
        )
        return done()


def over_time(report: Report) -> str:
    """Return plots of temperature, clock, power and speed over the run; "" without samples."""
    tracks = [track for track in _tracks(report) if len(track[1]) > 1]
    if not tracks:
        return ""

    with _figure(6.4, 0.6 + 1.1 * len(tracks), rows=len(tracks)) as (axes, done):
        for row, (name, points), colour in zip(
            axes if len(tracks) > 1 else [axes], tracks, itertools.cycle(COLOURS), strict=False
        ):
            row.plot(
                *zip(*points, strict=True),
                color=colour,
                linewidth=1.4,
                drawstyle="steps-post" if name == "throttled" else "default",
            )
            row.set_ylabel(name, fontsize=8)
            row.margins(y=0.2)
        row.set_xlabel("seconds since the run began")
        return done()


def _tracks(report: Report) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    samples: list[Figures] = report.measured.get("samples", [])
    for key, name in (("temperature_c", "°C"), ("clock_mhz", "MHz"), ("power_w", "W")):
        yield (
            name,
            [(sample["at_s"], sample[key]) for sample in samples if sample.get(key) is not None],
        )

    flags = [
        (sample["at_s"], float(bool(sample["throttled"])))
        for sample in samples
        if sample.get("throttled") is not None
    ]
    yield "throttled", flags
    yield "tokens/s", [(at, rate) for at, rate in report.measured.get("sustained", [])]


def _point(report: Report) -> tuple[float, float, float, str] | None:
    release = report.measured.get("release", {})
    kl = release.get("gate", {}).get("mean_kl")
    rate = next(
        (row["median_ts"] for row in report.rows if row["n_gen"] and "median_ts" in row), None
    )
    if kl is None or rate is None:
        return None
    return rate, max(kl, 1e-6), release["size_bytes"], f"{release['file']} on {report.board}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.1f} ms"


@contextmanager
def _figure(width: float, height: float, rows: int = 1) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Yield the axes of a figure, and a function that returns it as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "demitasse",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
        ),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, 1, sharex=True)

        def done() -> str:
            """Return the drawing as SVG in the page's own ink."""
            text = io.StringIO()
            figure.savefig(
                text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
            return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL).replace(
                INK, "currentColor"
            )

        yield axes, done
