"""What came out, as tables for people or as JSON: the shapes of the output, and nothing else.

`console` knows how to print; this module knows what is worth a column.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain import board_text, console, doctor
from toolchain.artifacts import Deployment, Report
from toolchain.doctor import Finding
from toolchain.forecast import SPEED_ERROR, Forecast, Rate
from toolchain.recipe import Recipe
from toolchain.report import Comparison, caveats
from toolchain.target import Fit, Target

if TYPE_CHECKING:
    from toolchain.board.virtual import VirtualBoard
    from toolchain.delivery import Delivery
    from toolchain.finished import Wanted
    from toolchain.pipeline import Step, Tried
    from toolchain.quantize.contents import Contents
    from toolchain.quantize.folders import FolderContents
    from toolchain.runtime.build import Built


def plan(
    wanted: "Recipe | Wanted",
    steps: "Sequence[Step]",
    notes: Sequence[str] = (),
    *,
    as_json: bool,
    to: str = "",
) -> None:
    """Show what a walk would do, and what is known of it before it begins."""
    if as_json:
        console.show_json(
            [
                {"stage": s.stage, "folder": str(s.folder), "what": s.what, "recorded": s.recorded}
                for s in steps
            ]
        )
        return
    rows = [[s.stage, "recorded" if s.recorded else "to do", s.what, str(s.folder)] for s in steps]
    rows += [["push", "to do", f"to {to}", ""]] if to else []
    console.show_table(("stage", "state", "what", "folder"), rows, title=wanted.title)
    if notes:
        console.show_text("\n" + "\n".join(notes))


def walked(
    wanted: "Recipe | Wanted",
    steps: "Sequence[Step]",
    delivery: "Delivery | None",
    *,
    as_json: bool,
) -> None:
    """Show the artifacts of a walk, and what the board did with the last one."""
    if as_json:
        made = [
            {"stage": s.stage, "folder": str(s.folder), **s.artifact.record.model_dump(mode="json")}
            for s in steps
            if s.artifact
        ]
        console.show_json(
            {
                "recipe": wanted.id,
                "stages": made,
                "delivery": asdict(delivery) if delivery else None,
            }
        )
        return
    if delivery and delivery.question:
        console.show_text(f"\nquestion: {delivery.question}\nanswer:   {delivery.answer}\n")
    rows = [_step_row(step) for step in steps]
    rows += [_delivery_row(delivery)] if delivery else []
    console.show_table(("stage", "seconds", "size", "result"), rows)
    if delivery:
        console.show_text("")
        bench(delivery.report, "md", as_json=False)
        _choice(delivery)
        _next_commands(delivery)
    elif steps:
        console.show_text(f"\n{steps[-1].stage}: {steps[-1].folder}")


def _choice(delivery: "Delivery") -> None:
    """Say which format is better on this board, by what was measured there."""
    for other in delivery.others:
        bench(other.report, "md", as_json=False)
        better, worse = (str(each.report.rows[0]["model_type"]) for each in (delivery, other))
        ratio = delivery.decode_tok_s / other.decode_tok_s
        console.show_text(
            f"\n{better} answers {ratio:.2f} times as fast as {worse} on this board, and stays"
        )


def _step_row(step: "Step") -> list[str]:
    assert step.artifact
    record = step.artifact.record
    seconds = f"{record.seconds:.1f}" if step.artifact.fresh else f"{record.seconds:.1f} (recorded)"
    return [step.stage, seconds, size(record.size_bytes), result(step.stage, record.figures)]


def _delivery_row(delivery: "Delivery") -> list[str]:
    made = delivery.deployment
    return [
        "push",
        f"{made.seconds:.1f}",
        size(made.bytes_sent),
        f"release {made.release[:12]} answers on port {made.port}",
    ]


def result(stage: str, figures: Mapping[str, Any]) -> str:
    """Return what a stage measured, in one line."""
    match stage:
        case "ingest":
            dropped = sum(figures["dropped"].values())
            return f"{figures['train']} conversations to learn, {figures['held_out']} held out, {dropped} dropped"
        case "pretrain":
            return (
                f"{figures['parameters'] / 1e6:.2f} M parameters, loss {figures['loss']:.2f}"
                + _scores(figures)
            )
        case "tune":
            share = f"{figures['trainable_parameters']:,} of {figures['total_parameters']:,} parameters trained"
            said = f"{share}; base{_scores(figures['base'])}; tuned{_scores(figures)}"
            return said + _forgotten(figures)
        case "distill":
            both = "; ".join(f"{name}{_scores(figures[name])}" for name in ("student", "control"))
            return f"{figures['parameters'] / 1e6:.2f} M parameters; {both}; the {figures['shipped']} ships"
        case "trim":
            tokens, same = figures["tokens"], figures["identical"]
            return f"{tokens['before']} → {tokens['after']} tokens" + (
                "" if same is None else f"; {same:.1%} of answers as before"
            )
        case "quantize":
            learned = figures.get("distillation", {}).get("shipped") == "learned"
            bits = (
                f"{figures['real_bpw']:.2f} bits per weight (nominal {figures['nominal_bpw']:.2f})"
            )
            return f"{figures['scheme']}: {bits}" + ", codes learned in the format" * learned
        case "take":
            bits = f"{figures['real_bpw']:.2f} bits per weight"
            return f"{figures['architecture']} {figures['scheme']}: {bits}, as it came"
        case "evaluate" if "own_prompts" in figures:
            return _own_verdict(figures)
        case "evaluate":
            return f"{_likeness(figures)}," + _scores(figures)
        case "package":
            return f"release {figures['release'][:12]}, {figures['files']} files"
    return ""


def _forgotten(figures: Mapping[str, Any]) -> str:
    """Return what a tuning did to general text; nothing for a record of an earlier version."""
    before = figures["base"].get("general_nats_per_byte")
    if before is None:
        return ""
    after = figures["general_nats_per_byte"]
    return f"; general text {before:.3f} → {after:.3f} nats per byte"


def _own_verdict(figures: Mapping[str, Any]) -> str:
    """Return what was measured of a finished model, and that the rest was not."""
    ended = f"{figures['own_ended']} of {figures['own_prompts']} answers of its own ended"
    known = _likeness(figures) if "mean_kl" in figures else "no reference"
    return f"{ended}; {known}; {_scores(figures).strip() or 'no data'}"


def _likeness(figures: Mapping[str, Any]) -> str:
    """Return how like its reference a model file is, on held-out answers and on general text."""
    said = f"KL {figures['mean_kl']:.4f}, agreement {figures['agreement']:.1%}"
    if "general_kl" not in figures:  # measured by an earlier version
        return said
    general = f"{figures['general_kl']:.4f}, {figures['general_agreement']:.1%}"
    return f"{said} (general text {general})"


def _scores(figures: Mapping[str, Any]) -> str:
    exact = figures.get("exact_match")
    if exact is None:
        # Nothing was held out to ask, or the stage asks nothing.
        return " not asked" if "exact_match" in figures else ""
    said = f" exact {exact:.1%} F1 {figures['f1']:.1%}"
    loss = figures.get("held_out_loss")
    return said if loss is None else f"{said} loss {loss:.2f}"


def schemes(found: "Sequence[Tried]", *, as_json: bool) -> None:
    """Show what each scheme makes of a model, the largest file first."""
    rows = [{**one.model.figures, **one.verdict.figures, "scheme": one.scheme} for one in found]
    rows.sort(key=lambda row: -int(row["size_bytes"]))
    if as_json:
        console.show_json(rows)
        return
    cells = [[_scheme_cell(name, row.get(name, ())) for name in _SCHEMES] for row in rows]
    console.show_table(tuple(_SCHEMES.values()), cells)


_SCHEMES = {
    "scheme": "scheme",
    "size_bytes": "size",
    "nominal_bpw": "nominal bits",
    "real_bpw": "real bits",
    "fallbacks": "fallbacks",
    "mean_kl": "KL",
    "kl_error": "± error",
    "p99_kl": "KL 99 %",
    "agreement": "agreement",
    "general_kl": "general KL",
    "general_agreement": "general agr.",
    "exact_match": "exact",
    "f1": "F1",
}


def _scheme_cell(name: str, value: Any) -> str:
    if name in ("agreement", "general_agreement", "exact_match", "f1"):
        return f"{value:.1%}"
    if name in ("mean_kl", "kl_error", "p99_kl", "general_kl"):
        return f"{value:.5f}"
    if name == "fallbacks":
        return f"{len(value)}"
    return (
        size(value)
        if name == "size_bytes"
        else f"{value:.2f}"
        if isinstance(value, float)
        else str(value)
    )


def size(count: float) -> str:
    """Return bytes as people read them (1 MB = 10**6)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _next_commands(delivery: "Delivery") -> None:
    address, port = delivery.deployment.address, delivery.deployment.port
    api = f"http://127.0.0.1:{port}/v1"
    lines = [
        f'demitasse ask {address} "{delivery.question or "hello"}"',
        *(f"demitasse {verb} {address}" for verb in ("chat", "bench", "status")),
    ]
    if address != "local":
        lines.append(
            f"ssh -N -L {port}:127.0.0.1:{port} {address}    # makes the board's endpoint yours"
        )
    body = json.dumps({"messages": [{"role": "user", "content": delivery.question or "hello"}]})
    lines.append(f"curl {api}/chat/completions -H 'Content-Type: application/json' -d '{body}'")
    console.show_text("\nnext:\n" + "\n".join(f"  {line}" for line in lines))


def deployed(made: Deployment, *, as_json: bool) -> None:
    """Show what a push did, or would do."""
    if as_json:
        console.show_json(asdict(made))
        return
    rows = []
    for action in made.actions:
        rows.append([action.verb, action.what, size(action.size_bytes)])
        rows += [["", f"  {way}", size(count)] for way, count in action.ways.items()]
    console.show_table(("action", "what", "bytes"), rows)
    sent = (
        f"{size(made.bytes_sent)} sent in {made.seconds:.1f} s"
        if made.seconds
        else f"{size(sum(action.size_bytes for action in made.actions))} to send"
    )
    console.show_text(f"\nrelease {made.release[:12]} on {made.address}: {sent}")


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
    names = ("load_s", "ttft_cold_s", "ttft_warm_s", "peak_rss_bytes")
    lines = [
        _figure(name, report.measured[name])
        for name in names
        if report.measured.get(name) is not None
    ]
    return [*lines, *(f"mind: {reason}" for reason in caveats(report))]


def _figure(name: str, value: float) -> str:
    words, unit = name.rsplit("_", 1)
    return (
        f"{words.replace('_', ' ')}: {size(value) if unit == 'bytes' else f'{value * 1000:.1f} ms'}"
    )


def calibrated(address: str, found: Mapping[str, Any], *, as_json: bool) -> None:
    """Show how a board runs its release from now on, and why."""
    if as_json:
        console.show_json(found)
        return
    evidence = found["evidence"]
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
            f"{name} = {value}: {'kept' if change['kept'] else 'no gain'}, {change['seconds']:.3f} s a question"
        )
    if refused := evidence.get("refused"):
        console.show_text(f"taken back to the threads alone: {refused}")
    chosen, before = found["settings"], evidence["before"]
    console.show_text(
        f"\n{chosen['threads']} threads answer (before: {before['threads']}), {chosen['threads_batch']} read prompts "
        f"(before: {before['threads_batch']})"
    )


def compared(found: Sequence[Comparison], first: str, second: str, *, as_json: bool) -> None:
    """Show how two reports compare, test by test."""
    if as_json:
        console.show_json([{**asdict(test), "verdict": test.verdict} for test in found])
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
        for c in found
    ]
    console.show_table(("test", first, second, "ratio", "95 %", f"{second} is"), rows)
    for name, reasons in zip((first, second), found[0].caveats, strict=True):
        for reason in reasons:
            console.show_text(f"mind: {name}: {reason}")


def status(address: str, facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Show what a board serves."""
    if as_json:
        console.show_json(facts)
        return
    console.show_text("\n".join(board_text.lines(address, facts)))


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def findings(found: Sequence[Finding], *, as_json: bool) -> None:
    """Show what the doctor saw."""
    if as_json:
        console.show_json([asdict(finding) for finding in found])
        return
    console.show_text("\n".join(doctor.lines(found)))


def virtual_boards(found: "Sequence[VirtualBoard]", *, as_json: bool) -> None:
    """Show the virtual boards, one a line."""
    rows = [
        {"address": b.address, "debian": b.debian, "up": b.pid is not None, "port": b.port}
        for b in found
    ]
    if as_json:
        console.show_json(rows)
        return
    cells = [
        [row["address"], str(row["debian"]), f"up, port {row['port']}" if row["up"] else "down"]
        for row in rows
    ]
    console.show_table(("board", "Debian", "state"), cells)


def runtime(built: "Built", *, as_json: bool) -> None:
    """Show a runtime that was built, or found."""
    if as_json:
        console.show_json(asdict(built))
        return
    took = f"{built.seconds:.1f} s" + (
        f", {built.cpu_s:.1f} CPU-seconds" if built.cpu_s > 1 else ""
    )
    rows = [
        ["processor", f"{built.profile}: {' '.join(built.features)}"],
        ["glibc", f"{built.glibc} or newer"],
        ["size", size(built.size_bytes)],
        ["runtime", built.runtime],
        ["folder", built.folder],
        ["took", took],
    ]
    console.show_table((built.target, ""), [*rows, *([["wrote", file] for file in built.files])])


def all_targets(known: Sequence[Target], *, as_json: bool) -> None:
    """Show the boards that are known, one a line."""
    if as_json:
        console.show_json(
            [{"id": t.id, **t.model_dump(mode="json", exclude_defaults=True)} for t in known]
        )
        return
    rows = [
        [t.id, t.name, t.soc or "-", "-" if t.memory_mb is None else f"{t.memory_mb}", t.profile]
        for t in known
    ]
    console.show_table(("id", "board", "SoC", "memory MB", "runtime"), rows)


def one_target(found: Target, *, as_json: bool) -> None:
    """Show one board with the source of each fact."""
    if as_json:
        console.show_json({"id": found.id, **found.model_dump(mode="json", exclude_defaults=True)})
        return
    rows = [[name, _plain(value), found.source_of(name)] for name, value in found.facts()]
    proved = "" if found.proved_on_hardware else " (not yet proved on hardware)"
    console.show_table(("fact", "value", "source"), rows, title=f"{found.id}: {found.name}{proved}")
    for note in found.notes:
        console.show_text(f"\nnote: {note}")


def fitted(
    name: str, expected: Forecast, found: Fit, board: Target, *, where: str = "", as_json: bool
) -> None:
    """Show whether a model fits on a board, what takes its memory, and how fast it is expected to be."""
    if as_json:
        whole = {
            "model": name,
            "target": board.id,
            "ok": found.ok,
            "available_mb": found.available_mb,
            **asdict(expected),
        }
        rates = {
            rate: value and value._asdict()
            for rate, value in (("decode", expected.decode), ("prefill", expected.prefill))
        }
        console.show_json(
            whole
            | rates
            | {
                "largest_context": found.largest_context,
                "trained_context": found.trained_context,
                "reasons": found.reasons,
            }
        )
        return
    rows = [[part, f"{mb} MB"] for part, mb in found.parts_mb.items()]
    rows += [
        ["needed", f"{found.needed_mb} MB"],
        ["left beside the system", f"{found.available_mb} MB"],
    ]
    rows += [["peak resident memory", f"{expected.peak_bytes >> 20} MB, the mapped file with it"]]
    if found.largest_context:
        rows += [["largest context", _largest_context(found)]]
    rows += [["answers", _answers(expected)]]
    rows += [["prompts", _rate(expected.prefill, "nobody has measured a file of this type there")]]
    console.show_table(
        (f"{name} on {where or board.name}", f"{expected.needs.context} tokens of context"), rows
    )
    console.show_text("\nit fits" if found.ok else f"\nit does not fit: {_misfit(found)}")


def _largest_context(found: Fit) -> str:
    limit = found.largest_context == found.trained_context
    return f"{found.largest_context} tokens" + (", all that the model was made for" * limit)


def _misfit(found: Fit) -> str:
    """Return every reason, and what would help."""
    return "; ".join([*found.reasons, found.hint])


def _answers(expected: Forecast) -> str:
    bound = expected.decode_at_most
    if expected.decode is None and bound is not None:
        return f"at most {bound:.3g} tokens/s: the memory feeds no more; nobody has measured it"
    return _rate(expected.decode, "nobody has measured how fast this board decodes")


def _rate(rate: Rate | None, unknown: str) -> str:
    if rate is None:
        return f"not known: {unknown}"
    return f"about {rate.tok_s:.3g} tokens/s with {rate.threads} threads (± {SPEED_ERROR:.0%})"


def folder(found: "FolderContents", *, as_json: bool) -> None:
    """Show what a model, adapter or bundle folder is."""
    if as_json:
        console.show_json(asdict(found))
        return
    console.show_table((found.name, found.kind), [[name, text] for name, text in found.rows])
    for warning in found.warnings:
        console.show_text(f"\nwarning: {warning}")


def contents(found: "Contents", *, tensors: bool, as_json: bool) -> None:
    """Show what is inside a model file."""
    if as_json:
        whole = asdict(found)
        console.show_json(
            whole
            if tensors
            else {name: value for name, value in whole.items() if name != "tensors"}
        )
        return
    console.show_table((found.file, ""), [row for row in _contents_rows(found) if row[1]])
    shares = [
        [
            s.type,
            f"{s.tensors}",
            size(s.size_bytes),
            f"{s.bits:.2f}",
            f"{s.weights / found.parameters:.1%}",
        ]
        for s in found.types
    ]
    console.show_table(("\ntype", "tensors", "size", "bits", "of the weights"), shares)
    for warning in found.warnings:
        console.show_text(f"\nwarning: {warning}")
    if tensors:
        rows = [
            [t.name, t.type, " × ".join(map(str, t.shape)), size(t.size)] for t in found.tensors
        ]
        console.show_table(("\ntensor", "type", "shape", "size"), rows)


def _contents_rows(found: "Contents") -> list[list[str]]:
    origin = [found.name, f"from {found.base}" if found.base else "", found.licence]
    specials = [f"{special.role} {special.id} `{special.text}`" for special in found.specials]
    template = (
        f"{found.template_sha256[:12]}  {found.template_line}" if found.template_sha256 else ""
    )
    return [
        ["kind", f"{found.architecture} {found.kind}, {found.scheme}"],
        ["origin", ", ".join(part for part in origin if part)],
        [
            "size",
            f"{size(found.size_bytes)}, {found.parameters / 1e6:.1f} M parameters, {found.bits:.2f} bits per weight",
        ],
        ["shape", ", ".join(f"{value} {label}" for label, value in found.shape.items())],
        ["context", f"{found.context}" if found.context else ""],
        ["rope", found.rope],
        ["tokenizer", f"{found.tokenizer}, {found.vocabulary} tokens" if found.vocabulary else ""],
        ["special", ", ".join(specials)],
        ["template", template],
    ]
