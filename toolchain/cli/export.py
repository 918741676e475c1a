"""`export`: a recipe's checkpoint for a runtime that is not ours."""

from typing import Annotated

import typer

from toolchain import console, show
from toolchain.cli.words import OUT, AsJson, Offline, Out, RecipeFile, TargetId, app
from toolchain.errors import ConfigError


@app.command()
def export(
    recipe_file: RecipeFile,
    runtime: Annotated[
        str,
        typer.Option("--for", metavar="RUNTIME", help="The runtime: `tensorrt-edge-llm`."),
    ],
    target_id: TargetId = "",
    out: Out = OUT,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Make a folder for another runtime of a recipe's checkpoint: merged, with its own scripts."""
    from toolchain import shipped
    from toolchain.finished.source import is_finished
    from toolchain.line import exporting
    from toolchain.line.walk import Settings, open_recipe

    if is_finished(str(recipe_file)):
        raise ConfigError(
            f"{recipe_file}: a finished model has no checkpoint to export",
            hint="export takes a recipe; its `base` may be a Hugging Face folder",
        )
    with console.terminal() as report:
        recipe = open_recipe(shipped.find(recipe_file))
        board = exporting.board_of(recipe, runtime, target_id)
        settings = Settings(out=out / recipe.id, target=board, report=report, offline=offline)
        done = exporting.export(recipe, settings, runtime)
    show.exported(done, as_json=as_json)
