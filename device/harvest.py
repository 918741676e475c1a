"""`harvest`: prints the rows of a board's feedback; `forget`: deletes them.

A harvest that was cut off goes on behind the last row that arrived: rows have numbers, and the
ring's name says whether a number means the same row as before.
"""

import argparse
import json
from pathlib import Path

from device.feedback import FOLDER, Ring


def harvest(argv: list[str]) -> int:
    """Print one JSON line for each row: `harvest --root ROOT [--ring NAME --after NUMBER]`.

    The first line names the ring and its newest row, the last line is `{"ok": true}`. With the name
    of another ring all rows are printed.
    """
    parser = _parser("harvest")
    parser.add_argument("--after", type=int, default=0, metavar="NUMBER")
    options = parser.parse_args(argv)
    ring = Ring(options.root.expanduser() / FOLDER)
    name = ring.name()
    after = options.after if options.ring == name else 0
    print(json.dumps({"ring": name, "after": after, "last": ring.last()}), flush=True)

    for row in ring.rows(after):
        print(json.dumps({"row": row}))

    print(json.dumps({"ok": True}), flush=True)
    return 0


def forget(argv: list[str]) -> int:
    """Delete rows and print how many: `forget --root ROOT [--ring NAME --through NUMBER]`.

    Rows up to the number are deleted if the ring still has this name; without a number all are.
    """
    parser = _parser("forget")
    parser.add_argument("--through", type=int, default=None, metavar="NUMBER")
    options = parser.parse_args(argv)
    ring = Ring(options.root.expanduser() / FOLDER)
    is_meant = options.through is None or options.ring == ring.name()
    forgotten = ring.forget(options.through) if is_meant and ring.name() else 0
    print(json.dumps({"forgotten": forgotten}))
    return 0


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=verb)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--ring", default="", metavar="NAME")
    return parser
