"""Verbs of the line: a recipe to a bundle, a bundle to a board."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, show
from toolchain.cli.words import (
    OUT,
    PORT,
    AcceptNew,
    AllowUnsigned,
    AsJson,
    Board,
    CorsOrigins,
    DryRun,
    HostNames,
    Offline,
    Out,
    Port,
    RecipeFile,
    Sign,
    TargetId,
    To,
    app,
    settings_for,
)
from toolchain.delivery import Terms, deliver, host_name_of, look_first, origin_of
from toolchain.pipeline import USUAL, plan, try_schemes, walk


@app.command()
def run(
    recipe_file: RecipeFile,
    to: To = "",
    target_id: TargetId = "",
    out: Out = OUT,
    port: Port = PORT,
    dry_run: DryRun = False,
    offline: Offline = False,
    accept_new: AcceptNew = False,
    sign: Sign = "",
    allow_unsigned: AllowUnsigned = False,
    host_name: HostNames = [],  # noqa: B006 - typer hands a fresh list in
    cors_origin: CorsOrigins = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Run a recipe from its first stage to its last; with --to, on to a measured service that answers on the board."""
    with console.terminal() as report:
        wanted, settings = settings_for(recipe_file, target_id, out, report, offline=offline)
        if dry_run:
            show.plan(wanted, plan(wanted, settings), to=to, as_json=as_json)
            return
        terms = Terms(
            port=port,
            accept_new=accept_new,
            sign=sign,
            allow_unsigned=allow_unsigned,
            host_names=tuple(map(host_name_of, host_name)),
            cors_origins=tuple(map(origin_of, cors_origin)),
        )
        if to:
            look_first(to, terms)
        steps = list(walk(wanted, settings))
        delivery = deliver(wanted, steps, to, report, terms) if to else None
    show.walked(wanted, steps, delivery, as_json=as_json)


def _stage_verb(stage: str, help_text: str) -> None:
    def verb(
        recipe_file: RecipeFile,
        target_id: TargetId = "",
        out: Out = OUT,
        dry_run: DryRun = False,
        offline: Offline = False,
        as_json: AsJson = False,
    ) -> None:
        with console.terminal() as report:
            wanted, settings = settings_for(recipe_file, target_id, out, report, offline=offline)
            if dry_run:
                show.plan(wanted, plan(wanted, settings, until=stage), as_json=as_json)
                return
            steps = list(walk(wanted, settings, until=stage))
        show.walked(wanted, steps, None, as_json=as_json)

    app.command(name=stage, help=help_text)(verb)


for _name, _help in (
    (
        "ingest",
        "Run a recipe's first stage: read the data, split it, say what was dropped and why.",
    ),
    ("tune", "Run a recipe up to its fine-tuned checkpoint (LoRA, merged)."),
    ("distill", "Run a recipe up to its distilled student."),
    ("trim", "Run a recipe up to its checkpoint with the vocabulary of its subject alone."),
    ("quantize", "Run a recipe up to its quantized model file."),
    (
        "evaluate",
        "Run a recipe up to the gate: measure the model file and say whether it may ship.",
    ),
    ("package", "Run a recipe up to the bundle that travels to boards."),
):
    _stage_verb(_name, _help)


@app.command()
def push(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="A bundle folder, such as build/starter/package."),
    ],
    board: Board,
    port: Port = PORT,
    dry_run: DryRun = False,
    accept_new: AcceptNew = False,
    sign: Sign = "",
    allow_unsigned: AllowUnsigned = False,
    host_name: HostNames = [],  # noqa: B006 - typer hands a fresh list in
    cors_origin: CorsOrigins = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Put a bundle on a board: look, plan, send what is missing, check it there, switch; go back if it is not healthy."""
    from toolchain.delivery import push_bundle

    with console.terminal() as report:
        terms = Terms(
            port=port,
            accept_new=accept_new,
            sign=sign,
            allow_unsigned=allow_unsigned,
            host_names=tuple(map(host_name_of, host_name)),
            cors_origins=tuple(map(origin_of, cors_origin)),
        )
        deployment = push_bundle(bundle, board, report, terms, dry_run=dry_run)
    show.deployed(deployment, as_json=as_json)


@app.command(name="sign")
def sign_verb(
    bundle: Annotated[
        Path,
        typer.Argument(metavar="BUNDLE", help="A bundle folder, such as build/starter/package."),
    ],
    sign: Sign = "",
) -> None:
    """Sign a bundle with an SSH key, so that it can be pushed from a computer without that key."""
    from toolchain.delivery import sign_bundle

    with console.terminal() as report:
        key = sign_bundle(bundle, sign, report)
    console.show_text(f"{bundle} is signed by {key.fingerprint}")


@app.command()
def schemes(
    recipe_file: RecipeFile,
    names: Annotated[
        str,
        typer.Option(
            "--schemes", help="Commas between; `Q4_0+learned`, `auto:4.5bpw`, `fp16` too."
        ),
    ] = "",
    target_id: TargetId = "",
    out: Out = OUT,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Measure what each scheme makes of a recipe's model: bytes, KL to the teacher, task score."""
    with console.terminal() as report:
        wanted, settings = settings_for(recipe_file, target_id, out, report, offline=offline)
        found = list(try_schemes(wanted, settings, names.split(",") if names else USUAL))
    show.schemes(found, as_json=as_json)
