"""Mutants of a file whose structure is no text: what hostile files of any format are made of."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Rounds

ROOT = Path(__file__).resolve().parents[2]
TOGETHER = 100
"""Mutants of a round."""


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """Return bytes with bits flipped, words overwritten or moved, and pieces cut or doubled."""
    spoiled = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(spoiled))
        piece = bytes(spoiled[at : at + draw.randrange(1, 24)])
        way = draw.randrange(5)
        if way == 0:
            spoiled[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            spoiled[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x80" * 4))
        elif way == 2:
            del spoiled[at : at + len(piece)]
        elif way == 3:
            spoiled[at:at] = piece
        else:
            there = draw.randrange(len(spoiled))
            spoiled[there : there + len(piece)] = piece
    return bytes(spoiled)


def none_kills(
    child: str, file: Path, means: dict[str, str], rounds: "Rounds", number: int
) -> None:
    """Assert of a round's mutants of a file that each was refused or answered, and count them.

    `child` is the program that loads mutants `number` × TOGETHER and on, and prints a status for
    each; `means` says what each status that may be seen means.
    """
    command = [sys.executable, "-c", child, str(file), str(number * TOGETHER), str(TOGETHER)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=250)
    seen = dict(json.loads(line) for line in done.stdout.splitlines())
    assert {mutant: status for mutant, status in seen.items() if status not in means} == {}
    assert len(seen) == TOGETHER
    for status in seen.values():
        rounds.saw(means[status])
