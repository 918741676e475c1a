"""Verbs of a round: what people think of a board's answers, and which questions need an answer.

And `tally`: what boards of several owners have counted together.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, shipped, show, signing
from toolchain.cli.words import OUT, AsJson, Out, RecipeFile, Sign, app, device_at
from toolchain.errors import ConfigError
from toolchain.line.walk import open_recipe
from toolchain.rounds.embedder import embedder_of
from toolchain.rounds.round_file import DAYS, LEAST, LOWEST, MOST_DAYS

HARVEST = Path("harvest.jsonl")
ANSWERED = "answered.jsonl"


@app.command()
def harvest(
    boards: Annotated[
        list[str],
        typer.Argument(
            metavar="BOARD", help="A board, as for every verb; with --sealed, all of yours."
        ),
    ],
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
    sealed: Annotated[
        Path | None,
        typer.Option(
            "--sealed",
            metavar="ROUND",
            help="Write only counters, under masks: their sum over all owners can be read.",
        ),
    ] = None,
    sign: Sign = "",
    as_json: AsJson = False,
) -> None:
    """Fetch what people think of a board's answers: ratings, corrections, unanswered questions."""
    from toolchain.rounds import harvest as rounds

    if sealed:
        if delete or discard or recipe_file or out != HARVEST:
            raise ConfigError("--sealed: fetches no rows", hint="give it with boards and --sign")
        _seal(sealed, boards, sign, as_json=as_json)
        return
    if len(boards) > 1 or sign:
        raise ConfigError("only --sealed takes several boards, and a key", hint="name one board")
    if discard and (delete or recipe_file):
        raise ConfigError("--discard: fetches nothing", hint="give it alone")
    recipe = open_recipe(shipped.find(Path(recipe_file))) if recipe_file else None
    with console.terminal() as report, device_at(boards[0]) as device:
        if discard:
            show.discarded(boards[0], rounds.discard(device), as_json=as_json)
            return
        done = rounds.harvest(device, out, report, recipe, delete=delete)
    show.harvested(done, as_json=as_json)


def _seal(path: Path, boards: list[str], sign: str, *, as_json: bool) -> None:
    """Write the counters of one owner's boards under masks."""
    from toolchain.rounds import counted, tally

    if len(set(boards)) < len(boards):
        raise ConfigError("a board is there twice", hint="name each board once")
    key = signing.find_key(sign)
    seat = tally.seat_in(path, key)
    counted.check_names(seat.round.counters)
    found: Counter[str] = Counter()
    rings: set[str] = set()
    with console.terminal() as report:
        for number, board in enumerate(boards, 1):
            with device_at(board) as device:
                found.update(counted.counted_on(device, rings))
            report.step("count", number, len(boards), "boards")
    file = tally.seal(seat, counted.vector_of(found, seat.round.counters), key)
    show.sealed(seat.owner, file, len(boards), as_json=as_json)


@app.command("tally")
def tally_verb(
    round_file: Annotated[
        Path, typer.Argument(metavar="ROUND", help="The round's file, such as tally.json.")
    ],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="Sealed files; by default those beside the round."),
    ] = None,
    owners: Annotated[
        Path | None,
        typer.Option(
            "--owners", metavar="KEYS", help="Begin a round: public SSH keys, a name behind each."
        ),
    ] = None,
    least: Annotated[
        int, typer.Option("--least", help="Owners that a sum must have.", min=LOWEST)
    ] = LEAST,
    days: Annotated[
        int, typer.Option("--days", help="Until a round closes.", min=1, max=MOST_DAYS)
    ] = DAYS,
    joins: Annotated[
        bool, typer.Option("--join", help="Take part: write your key for this round.")
    ] = False,
    sign: Sign = "",
    as_json: AsJson = False,
) -> None:
    """Add up what boards of several owners have counted: nobody reads the counters of one owner."""
    from toolchain.rounds import counted, tally
    from toolchain.rounds import round_file as rounds

    if sum((bool(files), owners is not None, joins)) > 1:
        raise ConfigError("give sealed files, --owners or --join", hint="one of them, or nothing")
    if owners:
        made = rounds.begin(round_file, owners, counted.COUNTERS, least, days)
        show.tally_round(made, round_file, as_json=as_json)
    elif joins:
        key = signing.find_key(sign)
        counted.check_names(rounds.read_round(round_file).counters)
        owner, file = tally.join(round_file, key)
        show.joined(rounds.read_round(round_file), owner, file, as_json=as_json)
    else:
        show.tally(tally.open_sum(round_file, files or ()), as_json=as_json)


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
