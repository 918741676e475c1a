"""`package --as`: a bundle in the form that an update server hands to boards."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain import artifacts, console, show
from toolchain.artifacts import Bundle
from toolchain.cli.words import refuse_given, settings_for
from toolchain.delivery import Leave, device_type_of, leave_as
from toolchain.errors import ConfigError
from toolchain.line.walk import walk
from toolchain.progress import Reporter

Form = Annotated[
    str,
    typer.Option(
        "--as",
        metavar="FORM",
        help="Also as an update: `mender` or `hawkbit`. Takes a bundle folder too.",
    ),
]
DeviceTypes = Annotated[
    list[str],
    typer.Option(
        "--device-type",
        metavar="TYPE",
        help="Kind of device, as the update server names it; by default the target; repeatable.",
    ),
]
WithRuntime = Annotated[
    bool,
    typer.Option("--with-runtime", help="Put the runtime into the update: for new boards."),
]


def leave_of(
    form: str, device_types: list[str], *, with_runtime: bool, sign: str
) -> "Leave | None":
    """Return how a bundle leaves; None without --as. Raise ConfigError for options without it."""
    if not form:
        given = {"device-type": device_types, "with-runtime": with_runtime, "sign": sign}
        refuse_given(given, "is for an update", "it goes with --as FORM")
        return None
    from toolchain.updates import form_of

    form_of(form)
    types = tuple(dict.fromkeys(map(device_type_of, device_types)))
    return Leave(form=form, device_types=types, with_runtime=with_runtime, sign=sign)


def is_bundle(folder: Path) -> bool:
    """Say whether a folder is a finished bundle."""
    record = artifacts.recorded(folder) if folder.is_dir() else None
    return record is not None and record.stage == "package"


def refuse_folder(folder: Path) -> None:
    """Raise ConfigError for a folder where a recipe, a model or a bundle is asked for."""
    if is_bundle(folder):
        raise ConfigError(
            f"{folder}: is a bundle already",
            hint="`demitasse push` brings it to a board, --as FORM makes an update of it",
        )
    if folder.is_dir():
        raise ConfigError(
            f"{folder}: a folder that is neither a bundle nor a model",
            hint="name a recipe, or the folder of a bundle: build/RECIPE/package",
        )


def leave_bundle(bundle: Path, asked: Leave, *, as_json: bool) -> None:
    """Write a bundle as an update, in a folder beside it."""
    if bundle.name in ("", ".."):
        bundle = bundle.resolve()  # beside `.` is not in it
    with console.terminal() as report:
        _leave(bundle, asked, report, as_json=as_json)


def leave_recipe(
    recipe_file: Path,
    named: tuple[str, str],
    asked: Leave,
    out: Path,
    *,
    offline: bool,
    as_json: bool,
) -> None:
    """Package a recipe's model, then write it as an update; `named` are target and data's keys."""
    target_id, names = named
    with console.terminal() as report:
        recipe, settings = settings_for(
            recipe_file, target_id, out, report, offline=offline, names=names
        )
        steps = list(walk(recipe, settings, until="package"))
        bundles = [step.artifact.path for step in steps if isinstance(step.artifact, Bundle)]
        if len(bundles) != 1:
            listed = ", ".join(map(str, bundles)) or "none"
            raise ConfigError(
                f"--as: one bundle leaves as an update, the recipe makes {len(bundles)}: {listed}",
                hint="demitasse package BUNDLE --as FORM takes one of them",
            )
        _leave(bundles[0], asked, report, as_json=as_json)


def _leave(bundle: Path, asked: Leave, report: Reporter, *, as_json: bool) -> None:
    left = leave_as(bundle, asked, bundle.parent / asked.form, report)
    show.left(left, as_json=as_json)
