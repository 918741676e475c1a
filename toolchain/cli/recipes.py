"""Verbs of the shipped recipes: list them, copy one to begin with."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from toolchain import console
from toolchain.cli.words import AsJson, app

recipes = typer.Typer(help="List the recipes that are shipped; `copy` gives you one to change.")
app.add_typer(recipes, name="recipes")


@recipes.callback(invoke_without_command=True)
def _list(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand:
        return

    from toolchain import shipped

    found = shipped.summaries()
    if as_json:
        console.show_json([asdict(one) for one in found])
        return

    console.show_table(
        ("recipe", "model", "board", "what it is"),
        [[one.name, one.model, one.target, one.title] for one in found],
    )
    console.show_text(
        "\nrun one:         demitasse run NAME --to BOARD"
        "\nmake it yours:   demitasse recipes copy NAME [FOLDER]"
    )


@recipes.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe that `recipes` lists.")],
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where to; by default the current folder.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Copy a shipped recipe and its data into a folder, so that you can change them."""
    from toolchain import shipped

    written = shipped.copy(name, folder)
    if as_json:
        console.show_json([str(path) for path in written])
        return

    for path in written:
        console.show_text(f"wrote {path}")
    console.show_text(f"\nnext: demitasse run {written[0]} --dry-run")
