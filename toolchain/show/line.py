"""What a walk through a recipe will do and did, and what a push did."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain import console
from toolchain.artifacts import Deployment
from toolchain.board.kind import kind_of
from toolchain.recipe import Recipe
from toolchain.show.measured import bench
from toolchain.show.words import size

if TYPE_CHECKING:
    from toolchain.delivery import Delivery
    from toolchain.export import Export
    from toolchain.finished import Wanted
    from toolchain.line.flow import Step
    from toolchain.line.schemes import Tried
    from toolchain.updates import Leaving


def plan(
    recipe: "Recipe | Wanted",
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
    console.show_table(("stage", "state", "what", "folder"), rows, title=recipe.title)
    if notes:
        console.show_text("\n" + "\n".join(notes))


def walked(
    recipe: "Recipe | Wanted",
    steps: "Sequence[Step]",
    delivery: "Delivery | None",
    *,
    as_json: bool,
) -> None:
    """Show the artifacts of a walk, and what the board did with the last one."""
    if as_json:
        stages = [
            {"stage": s.stage, "folder": str(s.folder), **s.artifact.record.model_dump(mode="json")}
            for s in steps
            if s.artifact
        ]
        console.show_json(
            {
                "recipe": recipe.id,
                "stages": stages,
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
        commands = next_commands(delivery.deployment, delivery.question or "hello")
        console.show_text("\nnext:\n" + "\n".join(f"  {line}" for line in commands))
    elif steps:
        console.show_text(f"\n{steps[-1].stage}: {steps[-1].folder}")


def _choice(delivery: "Delivery") -> None:
    """Show quality against speed of every format on this board, and why one stays."""
    if not delivery.others and not delivery.left_out:
        return
    rows = [_rival_row(each) for each in (delivery, *delivery.others)]
    rows += [[name, *[""] * (len(_RIVALS) - 1)] for name in delivery.left_out]
    console.show_text("")
    console.show_table(_RIVALS, rows, title=f"quality and speed on {delivery.deployment.address}")
    for name, reason in delivery.left_out.items():
        console.show_text(f"\n{name} is left out: {reason}")
    if delivery.why:
        console.show_text(f"\n{delivery.why}")


_RIVALS = ("file", "size", "KL", "agreement", "exact", "prompt t/s", "answer t/s", "first token")


def _rival_row(delivery: "Delivery") -> list[str]:
    quality, report = delivery.quality, delivery.report
    rates = {bool(row["n_gen"]): f"{row['median_ts']:.2f}" for row in report.rows}
    first_s = report.measured.get("ttft_warm_s")
    return [
        delivery.file,
        size(quality.size_bytes),
        "-" if quality.kl is None else f"{quality.kl:.4f}",
        "-" if quality.agreement is None else f"{quality.agreement:.1%}",
        "-" if quality.exact_match is None else f"{quality.exact_match:.1%}",
        rates.get(False, "-"),
        rates.get(True, "-"),
        "-" if first_s is None else f"{first_s * 1000:.0f} ms",
    ]


def _step_row(step: "Step") -> list[str]:
    assert step.artifact
    record = step.artifact.record
    seconds = f"{record.seconds:.1f}" if step.artifact.fresh else f"{record.seconds:.1f} (recorded)"
    return [step.stage, seconds, size(record.size_bytes), step.result]


def _delivery_row(delivery: "Delivery") -> list[str]:
    deployment = delivery.deployment
    return [
        "push",
        f"{deployment.seconds:.1f}",
        size(deployment.bytes_sent),
        f"release {deployment.release[:12]} answers on port {deployment.port}",
    ]


def next_commands(deployment: Deployment, question: str) -> list[str]:
    """Return what may be typed into a shell now; the question comes from the recipe's author."""
    address, port = deployment.address, deployment.port
    api = f"http://127.0.0.1:{port}/v1"
    lines = [
        f"demitasse ask {address} {_quoted(question)}",
        *(f"demitasse {verb} {address}" for verb in ("chat", "bench", "status")),
    ]
    if not kind_of(address).simulated:
        lines.append(
            f"ssh -N -L {port}:127.0.0.1:{port} {address}    # makes the board's endpoint yours"
        )
    body = shlex.quote(json.dumps({"messages": [{"role": "user", "content": question}]}))
    lines.append(f"curl {api}/chat/completions -H 'Content-Type: application/json' -d {body}")
    return lines


def _quoted(text: str) -> str:
    """Return a text as one word of a shell, in double quotes where these change nothing in it."""
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def deployed(deployment: Deployment, *, as_json: bool) -> None:
    """Show what a push did, or would do."""
    if as_json:
        console.show_json(asdict(deployment))
        return
    rows = []
    for action in deployment.actions:
        rows.append([action.verb, action.what, size(action.size_bytes)])
        rows += [["", f"  {way}", size(count)] for way, count in action.ways.items()]
    console.show_table(("action", "what", "bytes"), rows)
    sent = (
        f"{size(deployment.bytes_sent)} sent in {deployment.seconds:.1f} s"
        if deployment.seconds
        else f"{size(sum(action.size_bytes for action in deployment.actions))} to send"
    )
    console.show_text(f"\nrelease {deployment.release[:12]} on {deployment.address}: {sent}")


def exported(done: "Export", *, as_json: bool) -> None:
    """Show the folder that was made for another runtime."""
    if as_json:
        console.show_json({"folder": str(done.path), **done.record.model_dump(mode="json")})
        return
    files = [file for file in sorted(done.path.iterdir()) if not file.name.startswith(".")]
    names = ", ".join(f"{file.name}/" if file.is_dir() else file.name for file in files)
    kept = "" if done.fresh else " (recorded)"
    console.show_text(f"{done.path}{kept}: {size(done.record.size_bytes)}: {names}")
    console.show_text(f"what to do with it: {done.path / 'README.md'}")


def left(done: "Leaving", *, as_json: bool) -> None:
    """Show the folder that was made for an update server."""
    if as_json:
        console.show_json({"folder": str(done.path), **done.record.model_dump(mode="json")})
        return
    figures = done.figures
    kept = "" if done.fresh else " (recorded)"
    runtime = "in it" if figures.carries_runtime else "must be on the board"
    console.show_text(
        f"{done.path}{kept}: {size(figures.update_bytes)} for a board: "
        f"release {figures.release[:12]}, runtime {figures.runtime[:12]} {runtime}"
    )
    console.show_text(f"what to do with it: {done.path / 'README.md'}")


def schemes(tried: "Sequence[Tried]", *, as_json: bool) -> None:
    """Show what each scheme makes of a model, the largest file first."""
    rows = [
        {
            **one.model.record.figures,
            **one.verdict.record.figures,
            "scheme": one.scheme,
        }
        for one in tried
    ]
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
