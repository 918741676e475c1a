"""A report as one HTML page: no script, no foreign resource, light or dark as the reader likes.

Reports of boards come first, then what was found in the data, then what documents answer.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolchain.artifacts import Report
from toolchain.guard_figures import LIKELY
from toolchain.knowledge.found import FoundPassage
from toolchain.ledger import Ledger, as_json, lines, rows_of
from toolchain.report import caveats, knowledge, plots, test_name
from toolchain.report import data as data_rows
from toolchain.report import guard as guard_rows
from toolchain.report.data import Data
from toolchain.report.guard import Guarded
from toolchain.report.knowledge import Known, Made

NOT_MEASURED = "not measured"
COUNTED = "counted by demitasse while it read the data; nothing was measured on a board"
"""What a page says that shows data alone."""
STYLE = """
:root { color-scheme: light dark;
  --paper: light-dark(#fbf9f6, #171412); --ink: light-dark(#2a211b, #ece5df);
  --quiet: light-dark(#6b5d53, #a89a8f); --line: light-dark(#e3dbd3, #362e29);
  --alarm: light-dark(#a3231a, #ff8a7d) }
body { margin: 0 auto; max-width: 54rem; padding: 2rem 1.25rem 4rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem } p { margin: .4rem 0 }
.quiet { color: var(--quiet); font-size: .9rem }
.caveat { color: var(--alarm) } .wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { text-align: left; padding: .25rem 1.25rem .25rem 0; font-weight: normal;
  border-bottom: 1px solid var(--line) }
thead th { color: var(--quiet) } td.number { text-align: right }
table.questions { width: 100%; min-width: 34rem } table.questions td { vertical-align: top }
table.questions td:last-child { white-space: nowrap; color: var(--quiet); padding-right: 0 }
summary { cursor: pointer; margin-top: 1rem }
svg { width: 100%; max-width: 46rem; height: auto; display: block }
"""


def render(
    reports: Sequence[Report],
    documents: Sequence[Known] = (),
    made: Sequence[Made] = (),
    learned: Sequence[Data] = (),
    guarded: Sequence[Guarded] = (),
) -> str:
    """Return the page: reports side by side, what data holds, and what documents answer.

    `made` are recipes without documents; the page says what they are made of.
    """
    names = [report.board for report in reports]
    names += [data.name for data in learned] + [known.name for known in documents]
    names += [each.name for each in made] + [each.name for each in guarded]
    title = " · ".join(dict.fromkeys(names))
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="quiet">{_how(reports) if reports or documents else COUNTED}</p>',
    ]
    if reports:
        body += _figure(
            "Quality against speed",
            plots.quality_and_speed(reports),
            "The area of a circle is the size of the file; "
            "the dotted line joins those that no other beats in both.",
            "no report holds a release that went through the gate",
        )

    for report in reports:
        body += _report(report)
    for data in learned:
        body += _data(data)
    for each in guarded:
        body += _guarded(each)
    for known in documents:
        body += _known(known)
    for work in made:
        body.append(f"<h2>{_text(f'What it is made of: {work.name}')}</h2>")
        body += _ledger(work.ledger)

    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title>"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _how(reports: Sequence[Report]) -> str:
    """Return where and with what reports were measured."""
    if any("client_side" in report.measured for report in reports):
        return "measured by demitasse"  # each of these says the rest itself
    where = ", on the boards themselves" if reports else ""
    return f"measured by demitasse{where}, with the runtime that serves"


def _report(report: Report) -> Iterator[str]:
    release = report.measured.get("release", {})
    name = " ".join(str(release[key]) for key in ("name", "version") if key in release)
    yield f"<h2>{_text(f'{name} on {report.board}' if name else report.board)}</h2>"
    if file := release.get("file"):
        # Several formats of one model have the same name.
        yield f'<p class="quiet">{_text(str(file))}</p>'
    yield from (f'<p class="caveat">{_text(reason)}</p>' for reason in caveats(report))
    yield _tests(report)
    yield "<h3>What a user waits for, and what it takes</h3>"
    yield _table(("", ""), list(_figures(report)))
    yield from _figure(
        "Where the time of one answer goes",
        plots.where_time_goes(report),
        "A cold start; a running service has loaded its model.",
        "this model cannot be talked to",
    )
    yield from _figure(
        "Through the run",
        plots.over_time(report),
        "Sampled once a second on the board; what it has no sensor for is left out.",
        "the run was over within a second",
    )
    yield "<h3>Where this was measured</h3>"
    yield _table(("", ""), list(_origin(report)))


def _data(data: Data) -> Iterator[str]:
    """Yield what was found in the data of a recipe, and what was done with it."""
    figures = data.figures
    yield f"<h2>{_text(f'What it learned from: {data.name}')}</h2>"
    yield _table(("file", "read as", "rows", "languages"), list(data_rows.files(data)))
    yield "<h3>What became of it</h3>"
    yield _table(("", ""), list(data_rows.split(data)))
    yield from _findings("Personal data", figures.personal)
    if figures.not_looked_for:
        said = "; ".join(figures.not_looked_for)
        yield f'<p class="quiet">Not looked for: {_text(said)}</p>'
    yield from _findings("Dirt", figures.dirt)
    if figures.personal or figures.dirt:
        yield (
            '<p class="quiet"><code>findings.jsonl</code> in the folder of <code>ingest</code> '
            "has the line of each finding.</p>"
        )
    if by_file := list(data_rows.kinds_by_file(data)):
        table = _table(("file", "kind", "what was done"), by_file)
        yield f"<details><summary>By file</summary>{table}</details>"


def _findings(title: str, found: Mapping[str, data_rows.Counts] | None) -> Iterator[str]:
    """Yield what was found of one sort, by kind."""
    yield f"<h3>{title}</h3>"
    if found is None:
        yield f'<p class="quiet">{NOT_MEASURED}: the recipe turns this off</p>'
    elif not found:
        yield '<p class="quiet">none was found</p>'
    else:
        yield _table(("kind", "what was done"), list(data_rows.kinds(found)))


def _guarded(guarded: Guarded) -> Iterator[str]:
    """Yield what a guard flags, beside a guard model where there is one."""
    beside = guarded.figures.ceiling
    yield f"<h2>{_text(f'What it refuses: {guarded.name}')}</h2>"
    if beside is None:
        yield _table(("", "the guard"), list(guard_rows.alone(guarded.figures)))
        yield '<p class="quiet">No guard model was asked: <code>guard.model</code> names one.</p>'
        return
    head = ("the same texts", "the guard, which travels", "the model, on the host")
    yield _table(head, list(guard_rows.side_by_side(beside)))
    yield from (f'<p class="quiet">{_text(said)}</p>' for said in guard_rows.sentences(beside))
    if beside.said < LIKELY:
        yield (
            f'<p class="caveat">Its verdicts have {beside.said:.2%} of the probability: it is no '
            "guard model.</p>"
        )
    table = _table(("category", "unsafe texts", "guard", "model"), list(guard_rows.kinds(beside)))
    yield f"<details><summary>By category</summary>{table}</details>"


def _known(known: Known) -> Iterator[str]:
    """Yield what documents answer and what they missed, the worst first."""
    yield f"<h2>{_text(f'What it knows, what it missed: {known.name}')}</h2>"
    yield from (f'<p class="caveat">{_text(file)}</p>' for file in knowledge.unread(known))
    bare = "the same, had nobody written questions for the passages that answer"
    head = ("", "questions that it was fitted on", "fresh questions", bare)
    yield _table(head, knowledge.measured(known))
    yield (
        '<p class="quiet">In brackets: the 95 % interval. Only fresh questions were never seen '
        "while the embedder was tuned and the search was fitted.</p>"
    )
    if not known.questions:
        yield f'<p class="quiet">{NOT_MEASURED}: nobody wrote fresh questions</p>'

    for outcome, words in knowledge.MISSED.items():
        if asked := known.with_outcome(outcome):
            yield f"<h3>{_text(words.capitalize())}: {len(asked)}</h3>"
            yield _questions(asked)
    for outcome, words in knowledge.KNOWN.items():
        if asked := known.with_outcome(outcome):
            title = f"{words.capitalize()}: {len(asked)}"
            yield f"<details><summary>{_text(title)}</summary>{_questions(asked)}</details>"

    yield "<h3>What this was made of</h3>"
    yield _table(("", ""), knowledge.origin(known))
    yield from _ledger(known.ledger)
    files = knowledge.files(known)
    title = f"{len(files)} files" if len(files) != 1 else "1 file"
    yield f"<details><summary>{title}</summary>{_table(('file', 'gave'), files)}</details>"


def _ledger(ledger: Ledger) -> Iterator[str]:
    """Yield the sources with their terms, what was found in them, and what was done."""
    if not ledger.sources:
        return
    fields = as_json(ledger)
    yield "<h3>Sources and terms</h3>"
    yield _table(("source", "name", "terms", "rows"), rows_of(fields["sources"]))
    rows = [row for row in lines(fields) if row[0] != "sources"]
    rows += [("done", sentence) for sentence in ledger.done]
    yield _table(("", ""), rows)


def _questions(asked: Sequence[FoundPassage]) -> str:
    rows = [
        (
            each.question,
            each.found or "nothing",
            "; ".join(each.right) or "none",
            f"{each.certainty:.2f}",
        )
        for each in asked
    ]
    head = ("question", "passage found", "passages that answer it", "certainty")
    return _table(head, rows, kind="questions")


def _tests(report: Report) -> str:
    head = ("test", "median tokens/s", "mean ± sd", "nine in ten above", "n", "threads")
    rows = []
    for row in report.rows:
        median, tenth = (
            f"{row[key]:.2f}" if key in row else NOT_MEASURED for key in ("median_ts", "p10_ts")
        )
        mean = f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"
        rows.append(
            (
                test_name(row),
                median,
                mean,
                tenth,
                str(len(row["samples_ts"])),
                str(row.get("n_threads", "")),
            )
        )

    return _table(head, rows)


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    measured = report.measured
    for name, key in (
        ("first token, cold", "ttft_cold_s"),
        ("first token, warm", "ttft_warm_s"),
        ("loading the model", "load_s"),
    ):
        yield name, _said(measured.get(key), lambda value: f"{value:.3f} s")

    for name, key in (
        ("peak resident memory", "peak_rss_bytes"),
        ("its own share (PSS)", "pss_bytes"),
    ):
        yield name, _said(measured.get(key), lambda value: f"{value / 1e6:.1f} MB")

    yield "major page faults", _said(measured.get("major_faults"), str)
    for name, value in measured.get("pressure", {}).items():
        yield (
            f"time in which something waited for {name}",
            _said(value, lambda share: f"{share:.1%}"),
        )

    yield (
        "memory bandwidth, read",
        _said(measured.get("roofline", {}).get("bandwidth_gb_s"), lambda value: f"{value:g} GB/s"),
    )
    yield "of it used while answering", _roofline(measured.get("roofline", {}))
    yield from _sampled(measured.get("samples", []))


def _roofline(roof: dict[str, Any]) -> str:
    if roof.get("cached"):
        return "the model fits into the processor's cache: memory is no limit"
    return _said(roof.get("roofline_share"), lambda share: f"{share:.0%}")


def _sampled(samples: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, key, unit in (
        ("temperature", "temperature_c", "°C"),
        ("clock", "clock_mhz", "MHz"),
        ("power", "power_w", "W"),
    ):
        values = [sample[key] for sample in samples if sample.get(key) is not None]
        absent = f"{NOT_MEASURED}: this board has no sensor for it"
        yield name, f"{min(values):.4g} … {max(values):.4g} {unit}" if values else absent


def _origin(report: Report) -> Iterator[tuple[str, str]]:
    yield from (
        (name.replace("_", " "), str(value))
        for name, value in report.facts.items()
        if value not in (None, "")
    )
    release = report.measured.get("release", {})
    yield from ((name, str(release[name])) for name in ("release", "file") if name in release)

    for row in report.rows[:1]:
        yield "engine", f"{row.get('engine', 'llama.cpp')} {row.get('engine_version', '')}"
        yield (
            "model",
            f"{row.get('model_type', '')}, {row.get('model_size', 0) / 1e6:.1f} MB of weights",
        )
        yield "when", str(row.get("test_time", ""))

    for name in ("before", "after"):
        condition = report.measured.get(name, {})
        yield (
            f"load average {name}",
            _said(condition.get("load_average"), lambda value: f"{value:.2f}"),
        )


def _said(value: Any, words: Any) -> str:
    return NOT_MEASURED if value is None else str(words(value))


def _figure(title: str, svg: str, caption: str, absent: str) -> list[str]:
    picture = f'<div class="wide" role="img" aria-label="{_text(title)}">{svg}</div>'
    shown = f'{picture}<p class="quiet">{_text(caption)}</p>'
    return [
        f"<h3>{_text(title)}</h3>",
        shown if svg else f'<p class="quiet">{NOT_MEASURED}: {_text(absent)}</p>',
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    columns = "".join(f"<th>{_text(name)}</th>" for name in head)
    shown = f"<thead><tr>{columns}</tr></thead>" if any(head) else ""
    lines = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    named = f' class="{kind}"' if kind else ""
    return f'<div class="wide"><table{named}>{shown}<tbody>{lines}</tbody></table></div>'


def _text(text: str) -> str:
    return html.escape(text)
