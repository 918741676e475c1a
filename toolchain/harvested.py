"""Answers to questions of boards in a data file: where they were asked, and in which round.

`label --answers` marks each row; `ingest` and the documents read past the mark, and the ledger
tells it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.texts import Unreadable, lines_of, parse_json

HARVESTED = "harvested"
"""Key of a row with the mark."""
_SHOWN = 8
"""Boards that a ledger names one by one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an answered question was asked."""

    key: str
    """What names the question from round to round."""
    round: int
    boards: Mapping[str, str]
    """Board → release that was asked there."""


def marks_in(name: str, file: Path) -> list[Mark]:
    """Return the marks of a data file, in its order; rows without one are passed over."""
    found = []
    for _, line in lines_of(name, file):
        try:
            row = parse_json(line) if line.strip() else None
        except Unreadable:  # `ingest` names the line
            continue
        mark = row.get(HARVESTED) if isinstance(row, dict) else None
        if isinstance(mark, dict):
            found.append(_mark(mark))
    return found


def _mark(mark: Mapping[str, Any]) -> Mark:
    number, boards = mark.get("round"), mark.get("boards")
    return Mark(
        key=str(mark.get("key", "")),
        round=number if type(number) is int else 0,
        boards={str(board): str(release) for board, release in boards.items()}
        if isinstance(boards, dict)
        else {},
    )


def note_of(name: str, file: Path) -> str:
    """Return in words which rows of a data file came from which board and round; empty if none."""
    counts: Counter[tuple[int, str]] = Counter()
    releases: dict[tuple[int, str], set[str]] = {}
    for mark in marks_in(name, file):
        for board, release in mark.boards.items():
            place = (mark.round, board)
            counts[place] += 1
            releases.setdefault(place, set()).add(release[:12])
    said = [
        f"round {number}: {rows} of {board} (release {', '.join(sorted(releases[number, board]))})"
        for (number, board), rows in sorted(counts.items())
    ]
    more = f"; {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more
