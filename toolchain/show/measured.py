"""What was measured on a board: its speed, its calibration, and how two reports differ."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from toolchain import console
from toolchain.artifacts import Report
from toolchain.report import Comparison, caveats
from toolchain.show.words import size


def bench(report: Report, form: str, *, as_json: bool) -> None:
    """Show what was measured on a board."""
    from toolchain.bench import render

    if as_json:
        console.show_json(asdict(report))
        return
    console.show_text(render(report, form))
    if form == "md":
        console.show_text("\n" + "\n".join(_measured(report)))


def _measured(report: Report) -> list[str]:
    names = ("load_s", "ttft_cold_s", "ttft_warm_s", "connect_s", "peak_rss_bytes")
    lines = [
        _figure(name, report.measured[name])
        for name in names
        if report.measured.get(name) is not None
    ]
    lines += _by_the_server(report.measured.get("client_side", {}))
    return [*lines, *(f"mind: {reason}" for reason in caveats(report))]


def _by_the_server(seen: Mapping[str, Any]) -> list[str]:
    """Return the rates by a server's own clock, and whose count of tokens the rows stand on."""
    rates = {"prompts": "server_prompt_tok_s", "answers": "server_decode_tok_s"}
    lines = [
        f"by the server's own clock, {what}: {seen[key]:.2f} tokens/s"
        for what, key in rates.items()
        if seen.get(key) is not None
    ]
    if seen.get("counted_by") == "pieces":
        lines.append("the server counts no tokens of a stream: its pieces were counted")
    if any(count > 1 for count in seen.get("answers", ())):
        lines.append("its answers are short: a test is several of them")
    if any(seen.get("cached_tokens", ())):
        lines.append("part of the prompts was in the server's memory: the rest of them is counted")
    elif None in seen.get("prompt_tokens", ()):
        lines.append("prompts are not measured: the server does not count their tokens")
    return lines


def _figure(name: str, value: float) -> str:
    words, unit = name.rsplit("_", 1)
    return (
        f"{words.replace('_', ' ')}: {size(value) if unit == 'bytes' else f'{value * 1000:.1f} ms'}"
    )


def calibrated(address: str, calibration: Mapping[str, Any], *, as_json: bool) -> None:
    """Show how a board runs its release from now on, and why."""
    if as_json:
        console.show_json(calibration)
        return
    evidence = calibration["evidence"]
    rows = [
        [
            what,
            str(trial["threads"]),
            " ".join(map(str, trial["cpus"])),
            f"{trial['tok_s']:.2f}",
            str(trial["rounds"]),
        ]
        for what in ("decode", "prefill")
        for trial in evidence[what]
    ]
    console.show_table(
        ("phase", "threads", "cores", "tokens/s", "rounds"),
        rows,
        title=f"{address}: {evidence['seconds']:g} s",
    )
    for change in evidence["changes"][1:]:
        name, value = next(iter(change["change"].items()), ("", ""))
        console.show_text(
            f"{name} = {value}: {'kept' if change['kept'] else 'no gain'}, "
            f"{change['seconds']:.3f} s a question"
        )
    if refused := evidence.get("refused"):
        console.show_text(f"taken back to the threads alone: {refused}")
    chosen, before = calibration["settings"], evidence["before"]
    console.show_text(
        f"\n{chosen['threads']} threads answer (before: {before['threads']}), "
        f"{chosen['threads_batch']} read prompts "
        f"(before: {before['threads_batch']})"
    )


def compared(tests: Sequence[Comparison], first: str, second: str, *, as_json: bool) -> None:
    """Show how two reports compare, test by test."""
    if as_json:
        console.show_json([{**asdict(test), "verdict": test.verdict} for test in tests])
        return
    rows = [
        [
            c.test,
            f"{c.first:.2f}",
            f"{c.second:.2f}",
            f"{c.ratio:.3f}",
            f"{c.low:.3f} … {c.high:.3f}",
            c.verdict,
        ]
        for c in tests
    ]
    console.show_table(("test", first, second, "ratio", "95 %", f"{second} is"), rows)
    for name, reasons in zip((first, second), tests[0].caveats, strict=True):
        for reason in reasons:
            console.show_text(f"mind: {name}: {reason}")
