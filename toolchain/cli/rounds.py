"""Verbs of a round: what people think of a board's answers, and which questions need an answer."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, shipped, show
from toolchain.cli.words import OUT, AsJson, Board, Out, RecipeFile, app, device_at
from toolchain.errors import ConfigError
from toolchain.line.walk import open_recipe
from toolchain.rounds.embedder import embedder_of

HARVEST = Path("harvest.jsonl")
ANSWERED = "answered.jsonl"


@app.command()
def harvest(
    board: Board,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="JSON lines; new rows are appended.")
    ] = HARVEST,
    recipe_file: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="RECIPE", help="Its `[data.redact]` is applied on arrival."
        ),
    ] = "",
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete on the board what was fetched.")
    ] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Fetch nothing, delete all feedback on the board.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch what people think of a board's answers: ratings, corrections, unanswered questions."""
    from toolchain.rounds import harvest as rounds

    if discard and (delete or recipe_file):
        raise ConfigError("--discard: fetches nothing", hint="give it alone")
    recipe = open_recipe(shipped.find(Path(recipe_file))) if recipe_file else None
    with console.terminal() as report, device_at(board) as device:
        if discard:
            show.discarded(board, rounds.discard(device), as_json=as_json)
            return
        done = rounds.harvest(device, out, report, recipe, delete=delete)
    show.harvested(done, as_json=as_json)


@app.command()
def label(
    recipe_file: RecipeFile,
    pool: Annotated[
        list[Path],
        typer.Option("--pool", metavar="FILE", help="A harvest; repeatable."),
    ] = [HARVEST],  # noqa: B006 - typer hands a fresh list in
    budget: Annotated[
        int, typer.Option("--budget", help="Questions that are worth an answer, at most.", min=1)
    ] = 50,
    to_label: Annotated[
        Path, typer.Option("--tasks", metavar="JSON", help="Tasks for Label Studio.")
    ] = Path("tasks.json"),
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="JSON", help="An export of Label Studio to read back."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="JSONL",
            help="Data file that answers are appended to; by default the first of the recipe's "
            "`[round] answers`, else `answered.jsonl` beside it.",
        ),
    ] = None,
    out: Out = OUT,
    as_json: AsJson = False,
) -> None:
    """Say which harvested questions are worth an answer, and take the answers that people gave."""
    from toolchain.rounds.harvest import read_harvest
    from toolchain.rounds.label import label as choose_questions
    from toolchain.rounds.label import take_answers

    with console.terminal() as report:
        recipe = open_recipe(shipped.find(recipe_file))
        if answers:
            first = recipe.round.answers[0] if recipe.round and recipe.round.answers else ""
            target = into or recipe.folder / (first or ANSWERED)
            show.answers(take_answers(answers, target), as_json=as_json)
            return
        rows = [row for file in pool for row in read_harvest(file)]
        with embedder_of(recipe, out / recipe.id, report) as embed:
            done = choose_questions(recipe, rows, budget, to_label, embed)
    show.labels(done, as_json=as_json)
