"""What a harvest brought, and which questions were chosen to be answered."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain import console

if TYPE_CHECKING:
    from toolchain.rounds.compare import Round
    from toolchain.rounds.harvest import Harvest
    from toolchain.rounds.label import Answers, Labels
    from toolchain.rounds.round_file import Round as TallyRound
    from toolchain.rounds.tally import Tally


def harvested(done: "Harvest", *, as_json: bool) -> None:
    """Show what a harvest brought."""
    if as_json:
        console.show_json({**asdict(done), "file": str(done.file)})
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.kinds.items()))
    console.show_text(
        f"{done.file}: {done.fetched} new rows of {done.board}{f': {kinds}' if kinds else ''}; "
        f"{done.known} were known"
    )
    if done.replaced:
        found = ", ".join(f"{count} {kind}" for kind, count in done.replaced.items())
        console.show_text(f"personal data, by the recipe's rules: {found}")
    if done.forgotten:
        console.show_text(f"{done.forgotten} rows deleted on the board")


def discarded(board: str, rows: int, *, as_json: bool) -> None:
    """Show how many rows were deleted on a board."""
    if as_json:
        console.show_json({"board": board, "forgotten": rows})
        return
    console.show_text(f"{board}: {rows} rows of feedback deleted")


def labels(done: "Labels", *, as_json: bool) -> None:
    """Show which questions were chosen, and what they cover."""
    if as_json:
        console.show_json({**asdict(done), "file": str(done.file), "config": str(done.config)})
        return
    console.show_text(
        f"{done.file}: {done.chosen} of {done.pool} questions, which were asked {done.asked} times"
    )
    console.show_text(
        f"compared by {done.by} with {done.answered} answered ones: of the pool "
        f"{done.covered_before:.0%} are covered now, {done.covered:.0%} with these"
    )
    if done.left_out:
        console.show_text(f"{done.left_out} questions were asked too seldom to be compared")
    console.show_text(
        f"in Label Studio: its interface is {done.config}; export the project as JSON"
    )


def answers(done: "Answers", *, as_json: bool) -> None:
    """Show what came back from the people who answered."""
    if as_json:
        console.show_json({**asdict(done), "file": str(done.file)})
        return
    console.show_text(
        f"{done.file}: {done.new} new answers of {done.tasks} tasks, {done.known} were known, "
        f"{done.skipped} have none"
    )


_ROUND = {
    "train": ("conversations learned", "{:,}"),
    "held_out": ("held out", "{:,}"),
    "passages": ("passages", "{:,}"),
    "right": ("fresh questions answered rightly from documents", "{:.1%}"),
    "exact_match": ("exact match", "{:.1%}"),
    "f1": ("token F1", "{:.1%}"),
    "forgotten": ("forgotten of the round before, in points", "{:.1f}"),
    "forgotten_error": ("± error", "{:.1f}"),
}
"""Figure of a round → what it is called and how it is written."""


def rounds_compared(rounds: "Sequence[Round]", *, as_json: bool) -> None:
    """Show rounds side by side."""
    if as_json:
        console.show_json([asdict(each) for each in rounds])
        return
    rows = []
    for name, (words, form) in _ROUND.items():
        values = [getattr(each, name) for each in rounds]
        if any(value is not None for value in values):
            cells = ("-" if value is None else form.format(value) for value in values)
            rows.append([words, *cells])
    console.show_table(("round", *(each.name for each in rounds)), rows)


def tally_round(made: "TallyRound", path: Path, *, as_json: bool) -> None:
    """Show a round of sealed tallies that begins."""
    if as_json:
        console.show_json({"file": str(path), "round": made.digest, "owners": list(made.owners)})
        return
    console.show_text(
        f"{path}: {len(made.owners)} owners, {len(made.counters)} counters; a sum needs "
        f"{made.least} owners; it closes at {made.closes.isoformat()}. "
        f"Each joins: demitasse tally {path} --join"
    )


def joined(asked: "TallyRound", owner: str, file: Path, *, as_json: bool) -> None:
    """Show who takes part in a round, to the owner who joins it: it hides among them."""
    from toolchain.rounds.round_file import fingerprint_of

    if as_json:
        console.show_json({"file": str(file), "owner": owner, "owners": asked.owners})
        return
    rows = [[name, fingerprint_of(line)] for name, line in sorted(asked.owners.items())]
    console.show_table(("owner", "key"), rows)
    console.show_text(
        f"{file}: `{owner}` takes part. Your counters are hidden among owners that do not tell "
        f"each other theirs: seal only if you know them to be different people"
    )


def sealed(owner: str, file: Path, boards: int, *, as_json: bool) -> None:
    """Show that an owner's counters are sealed."""
    if as_json:
        console.show_json({"file": str(file), "owner": owner, "boards": boards})
        return
    console.show_text(
        f"{file}: the counters of {boards} board{'s' * (boards > 1)} of `{owner}`, sealed"
    )


def tally(done: "Tally", *, as_json: bool) -> None:
    """Show a sum over owners."""
    if as_json:
        console.show_json(asdict(done))
        return
    rows = [[name, f"{count:,}"] for name, count in done.counters.items() if count]
    console.show_table(("counter", f"of {len(done.owners)} owners"), rows)
