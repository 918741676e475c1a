"""`run` and `package` of a finished model instead of a recipe: a file, Ollama's or a hub's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from toolchain import show, target
from toolchain.cli.words import refuse_given
from toolchain.delivery import Terms, board_facts, deliver
from toolchain.errors import ConfigError, FitError
from toolchain.line.flow import Settings
from toolchain.progress import Reporter
from toolchain.target import Target

Template = Annotated[
    Path | None,
    typer.Option("--template", metavar="FILE", help="Chat template of a finished model."),
]
Reference = Annotated[
    str,
    typer.Option(
        "--reference", metavar="MODEL", help="Folder or Hub id that a finished model was made of."
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FILE", help="Questions and answers for a finished model."),
]
Guard = Annotated[
    str,
    typer.Option(
        "--guard",
        metavar="WHAT",
        help="Filter of a finished model: it refuses `questions`, `both` or `nothing`.",
    ),
]
Context = Annotated[
    int,
    typer.Option("--context", help="Tokens of context of a finished model; 0: what fits.", min=0),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a command line says of a finished model."""

    name: str
    target_id: str
    out: Path
    to: str = ""
    template: Path | None = None
    reference: str = ""
    data: Path | None = None
    guard: str = ""
    context: int = 0
    offline: bool = False
    dry_run: bool = False
    as_json: bool = False


def finished(asked: Asked, terms: Terms | None, report: Reporter) -> None:
    """Bring a finished model into a bundle, and with `to` onto a board; show what came out."""
    from toolchain.finished import Options, finish, plan, prepare

    board, memory_mb = _board(asked, terms)
    settings = Settings(out=asked.out, target=board, report=report, offline=asked.offline)
    options = Options(
        template=asked.template,
        reference=asked.reference,
        data=asked.data,
        guard=asked.guard,
        context=asked.context,
        memory_mb=memory_mb,
    )
    wanted = prepare(asked.name, options, settings)
    if asked.dry_run:
        show.plan(wanted, plan(wanted, options, settings), to=asked.to, as_json=asked.as_json)
        return
    steps = list(finish(wanted, options, settings))
    delivery = deliver(wanted, steps, asked.to, report, terms) if asked.to and terms else None
    show.walked(wanted, steps, delivery, as_json=asked.as_json)


def refuse_for_recipe(**given: object) -> None:
    """Raise ConfigError for options of a finished model that are given with a recipe."""
    refuse_given(
        given,
        "is for a finished model, a recipe says this itself",
        "a finished model is a .gguf, a .tflite, `ollama:NAME` or `OWNER/REPO:QUANT`",
    )


def _board(asked: Asked, terms: Terms | None) -> tuple[Target, int | None]:
    """Return the target, named or recognised, and the memory that the board reports."""
    if not asked.to:
        if not asked.target_id:
            raise ConfigError(
                "a finished model needs --target ID or --to BOARD",
                hint="`demitasse targets` lists the boards",
            )
        return target.find(asked.target_id), None
    facts = board_facts(asked.to, accept_new=bool(terms and terms.accept_new))
    total = facts["memory_total_mb"]
    memory_mb = int(total) if total is not None else None
    if asked.target_id:
        return target.find(asked.target_id), memory_mb
    board = target.recognise(facts["model"], facts["machine"], memory_mb or 0)
    if board is None:
        raise FitError(
            f"{asked.to}: `{facts['model'] or facts['machine']}` is none of the known boards",
            hint="name the nearest one with --target; `demitasse targets` lists them",
        )
    return board, memory_mb
