"""Verbs to stages: reads the command line, calls the pipeline or a stage, shows what came out.

The only place that knows both the user's words and the stages; everything heavy is imported inside its verb.
"""

from pathlib import Path
from typing import Annotated

import typer

from toolchain import __version__, console, recipe, target
from toolchain.errors import ConfigError
from toolchain.pipeline import Settings, Step, plan, walk

app = typer.Typer(
    name="demitasse", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="From a fine-tuned language model to a healthy, measured, offline service on a Raspberry Pi or Jetson.",
)  # fmt: skip

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/starter.toml.")]
Board = Annotated[str, typer.Argument(metavar="BOARD", help="user@host[:port], an alias of ~/.ssh/config, or `local`.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the artifacts; each recipe gets one of its own in it.")]
TargetId = Annotated[str, typer.Option("--target", help="Kind of board to build for; by default the recipe's first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this computer.")]
AcceptNew = Annotated[bool, typer.Option("--accept-new", help="Pin the key of a board seen for the first time.")]
Port = Annotated[int, typer.Option("--port", help="Port of the service on the board.", min=1, max=65535)]

OUT = Path("build")
PORT = 8080


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        console.show_text(f"demitasse {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe_file: RecipeFile, to: Annotated[str, typer.Option("--to", metavar="BOARD", help="Push to this board, ask and measure it.")] = "",
    target_id: TargetId = "", out: Out = OUT, port: Port = PORT, dry_run: DryRun = False, offline: Offline = False,
    accept_new: AcceptNew = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run a recipe from its first stage to its last; with --to, on to a service that answers on the board."""
    from toolchain import delivery

    with console.terminal() as report:
        wanted, settings = _settings(recipe_file, target_id, out, report, offline=offline)
        if dry_run:
            _show_plan(plan(wanted, settings), as_json=as_json)
            return
        steps = list(walk(wanted, settings))
        delivered = delivery.deliver(steps[-1], wanted, to, port, report, accept_new=accept_new) if to else None
    _show_steps(steps, as_json=as_json, delivered=delivered)


def _stage_verb(stage: recipe.Stage, help_text: str) -> None:
    def verb(
        recipe_file: RecipeFile, target_id: TargetId = "", out: Out = OUT, dry_run: DryRun = False, offline: Offline = False,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        with console.terminal() as report:
            wanted, settings = _settings(recipe_file, target_id, out, report, offline=offline)
            if dry_run:
                _show_plan(plan(wanted, settings, until=stage), as_json=as_json)
                return
            steps = list(walk(wanted, settings, until=stage))
        _show_steps(steps, as_json=as_json)

    app.command(name=stage, help=help_text)(verb)


for _stage, _help in (
    ("ingest", "Read a recipe's data, split it and say what was dropped."),
    ("tune", "Run a recipe up to its fine-tuned checkpoint (LoRA, merged)."),
    ("distill", "Run a recipe up to its distilled student."),
    ("quantize", "Run a recipe up to its quantized model file."),
    ("evaluate", "Run a recipe up to the gate: measure the model file and say whether it may ship."),
    ("package", "Run a recipe up to the bundle that travels to boards."),
):
    _stage_verb(_stage, _help)  # type: ignore[arg-type]
