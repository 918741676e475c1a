"""Verbs of the line: a recipe to a bundle, a bundle to a board."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, show
from toolchain.cli import fleets
from toolchain.cli.finished import (
    Asked,
    Context,
    Data,
    Guard,
    Reference,
    Template,
    finished,
    refuse_for_recipe,
)
from toolchain.cli.updates import (
    DeviceTypes,
    Form,
    WithRuntime,
    is_bundle,
    leave_bundle,
    leave_of,
    leave_recipe,
    refuse_folder,
)
from toolchain.cli.words import (
    OUT,
    PORT,
    AcceptNew,
    AllowUnsigned,
    AsJson,
    BundleFolder,
    CorsOrigins,
    DryRun,
    FleetName,
    HostNames,
    Map,
    MaybeBoard,
    Offline,
    Only,
    Out,
    Port,
    RecipeFile,
    Sign,
    TargetId,
    To,
    app,
    open_one_of,
    refuse_given,
    settings_for,
)
from toolchain.delivery import Delivery, Terms, deliver, host_name_of, looking_first, origin_of
from toolchain.errors import ConfigError, FitError
from toolchain.finished.source import is_finished
from toolchain.line.schemes import USUAL, try_schemes
from toolchain.line.stages import STAGES
from toolchain.line.walk import Settings, Step, known, plan, walk, work_folder
from toolchain.recipe import Recipe
from toolchain.runtime import assembled_once


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
    template: Template = None,
    reference: Reference = "",
    data: Data = None,
    guard: Guard = "",
    context: Context = 0,
    names: Map = "",
    as_json: AsJson = False,
) -> None:
    """Run a recipe or bring a finished model; with --to, on to a measured service on the board."""
    terms = partial(
        _terms, port, accept_new, sign, allow_unsigned, names=host_name, origins=cors_origin
    )
    with console.terminal() as report:
        if is_finished(str(recipe_file)):
            asked = Asked(
                name=str(recipe_file),
                target_id=target_id,
                out=out,
                to=to,
                template=template,
                reference=reference,
                data=data,
                guard=guard,
                context=context,
                offline=offline,
                dry_run=dry_run,
                as_json=as_json,
            )
            finished(asked, terms(), report)
            return
        refuse_for_recipe(
            template=template, reference=reference, data=data, guard=guard, context=context
        )
        recipe, settings = settings_for(
            recipe_file, target_id, out, report, offline=offline, names=names
        )
        if dry_run:
            _show_plan(recipe, settings, to=to, as_json=as_json)
            return
        agreed = terms()
        with work_folder(settings), assembled_once():
            steps, delivery = _delivered(recipe, settings, to, agreed)
            page = _write_comparison(delivery, settings.out) if delivery else None
    show.walked(recipe, steps, delivery, as_json=as_json)
    if page and not as_json:
        console.show_text(f"\nquality against speed: {page}")


def _delivered(
    recipe: Recipe, settings: Settings, to: str, terms: Terms
) -> tuple[list[Step], Delivery | None]:
    """Walk a recipe, and on to a board if one is named."""
    if not to:
        return list(walk(recipe, settings)), None
    with looking_first(to, terms) as seen:
        steps = list(walk(recipe, settings, seen=seen))
    return steps, deliver(recipe, steps, to, settings.report, replace(terms, seen=seen()))


def _write_comparison(delivery: Delivery, out: Path) -> Path | None:
    """Write the reports of several formats side by side; return the page, None for one format."""
    from toolchain.files import write_whole
    from toolchain.report.page import render

    if not delivery.others:
        return None
    page = out / "formats.html"
    write_whole(page, render([delivery.report, *(each.report for each in delivery.others)]))
    return page


def _show_plan(
    recipe: Recipe, settings: Settings, *, until: str = "", to: str = "", as_json: bool
) -> None:
    """Show what a walk would do and what is known of it; raise what would end it."""
    findings = known(recipe, settings, until=until)
    try:
        steps = plan(recipe, settings, until=until)
    except FitError:  # no format is left to plan with: that is among the findings
        findings.end_walk()
        raise
    said = [*findings.notes, *findings.preview]
    for note in said if as_json else ():
        settings.report.note(note)
    show.plan(recipe, steps, said, to=to, as_json=as_json)
    findings.end_walk()


def _terms(
    port: int,
    accept_new: bool,
    sign: str,
    allow_unsigned: bool,
    *,
    names: Sequence[str],
    origins: Sequence[str],
) -> Terms:
    return Terms(
        port=port,
        accept_new=accept_new,
        sign=sign,
        allow_unsigned=allow_unsigned,
        host_names=tuple(map(host_name_of, names)),
        cors_origins=tuple(map(origin_of, origins)),
    )


def _stage_verb(stage: str, help_text: str) -> None:
    def verb(
        recipe_file: RecipeFile,
        target_id: TargetId = "",
        out: Out = OUT,
        dry_run: DryRun = False,
        offline: Offline = False,
        names: Map = "",
        as_json: AsJson = False,
    ) -> None:
        """Make a recipe's artifacts up to this stage."""
        _walk_to(stage, recipe_file, (target_id, names), out, dry_run, offline, as_json)

    app.command(name=stage, help=help_text)(verb)


def _walk_to(
    stage: str,
    recipe_file: Path,
    named: tuple[str, str],
    out: Path,
    dry_run: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Walk to a stage; `named` are the target's id and what --map says."""
    target_id, names = named
    with console.terminal() as report:
        recipe, settings = settings_for(
            recipe_file, target_id, out, report, offline=offline, names=names
        )
        if dry_run:
            _show_plan(recipe, settings, until=stage, as_json=as_json)
            return
        with assembled_once():
            steps = list(walk(recipe, settings, until=stage))
    show.walked(recipe, steps, None, as_json=as_json)


for _name, _row in STAGES.items():
    if _row.help and _name != "package":  # which takes a finished model too
        _stage_verb(_name, _row.help)


@app.command(name="package", help=STAGES["package"].help)
def package(
    recipe_file: RecipeFile,
    target_id: TargetId = "",
    out: Out = OUT,
    dry_run: DryRun = False,
    offline: Offline = False,
    template: Template = None,
    reference: Reference = "",
    data: Data = None,
    guard: Guard = "",
    context: Context = 0,
    names: Map = "",
    form: Form = "",
    device_type: DeviceTypes = [],  # noqa: B006
    with_runtime: WithRuntime = False,
    sign: Sign = "",
    as_json: AsJson = False,
) -> None:
    """Package a recipe's model, or a finished one; the help text stands in the stage's row."""
    leaves = leave_of(form, device_type, with_runtime=with_runtime, sign=sign)
    if leaves and is_bundle(recipe_file):
        refuse_given({"dry-run": dry_run}, "a bundle has no stages to plan", "leave it out")
        refuse_given({"target": target_id}, "a bundle is made for one already", "leave it out")
        if out != OUT:
            raise ConfigError("--out: an update stands beside its bundle", hint="leave it out")
        leave_bundle(recipe_file, leaves, as_json=as_json)
        return
    if not is_finished(str(recipe_file)):
        refuse_folder(recipe_file)
        refuse_for_recipe(
            template=template, reference=reference, data=data, guard=guard, context=context
        )
        named = (target_id, names)
        if leaves and not dry_run:
            leave_recipe(recipe_file, named, leaves, out, offline=offline, as_json=as_json)
            return
        _walk_to("package", recipe_file, named, out, dry_run, offline, as_json)
        return
    if leaves:
        raise ConfigError(
            "--as: a finished model is packaged first",
            hint="demitasse package MODEL, then: demitasse package BUNDLE --as FORM",
        )
    asked = Asked(
        name=str(recipe_file),
        target_id=target_id,
        out=out,
        template=template,
        reference=reference,
        data=data,
        guard=guard,
        context=context,
        offline=offline,
        dry_run=dry_run,
        as_json=as_json,
    )
    with console.terminal() as report:
        finished(asked, None, report)


@app.command()
def push(
    bundle: BundleFolder,
    board: MaybeBoard = "",
    fleet: FleetName = "",
    only: Only = "",
    port: Port = PORT,
    dry_run: DryRun = False,
    accept_new: AcceptNew = False,
    sign: Sign = "",
    allow_unsigned: AllowUnsigned = False,
    host_name: HostNames = [],  # noqa: B006 - typer hands a fresh list in
    cors_origin: CorsOrigins = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Put a bundle on a board: send what is missing, check it, switch; roll back if unhealthy.

    With --fleet on many boards: in waves, each watched before the next one begins.
    """
    from toolchain.delivery import push_bundle

    boards = open_one_of(board, fleet, only)
    with console.terminal() as report:
        terms = _terms(port, accept_new, sign, allow_unsigned, names=host_name, origins=cors_origin)
        if boards:
            fleets.push(bundle, boards, terms, report, dry_run=dry_run, as_json=as_json)
            return
        deployment = push_bundle(bundle, board, report, terms, dry_run=dry_run)
    show.deployed(deployment, as_json=as_json)


@app.command(name="sign")
def sign_verb(
    bundle: BundleFolder,
    sign: Sign = "",
    release: Annotated[
        str,
        typer.Option("--release", help="Sign this release only: 12 or more of its hex digits."),
    ] = "",
) -> None:
    """Sign a bundle with an SSH key, so that it can be pushed from a computer without that key."""
    from toolchain.delivery import sign_bundle

    with console.terminal() as report:
        key = sign_bundle(bundle, sign, report, release=release)
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
        recipe, settings = settings_for(recipe_file, target_id, out, report, offline=offline)
        tried = list(try_schemes(recipe, settings, names.split(",") if names else USUAL))
    show.schemes(tried, as_json=as_json)
