"""`logs`: the last lines that the service wrote, and, with --follow, those that come."""

import argparse
import json
import time
from collections import deque
from pathlib import Path
from typing import TextIO

LOG = "service.log"
MOST_LINES = 10_000
LOOK_S = 0.5


def logs(argv: list[str]) -> int:
    """Print one JSON line for each line of the log: `logs --root ROOT [-n N] [--follow]`."""
    parser = argparse.ArgumentParser(prog="logs")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("-n", type=int, default=50, choices=range(MOST_LINES + 1), metavar="LINES")
    parser.add_argument("--follow", action="store_true", help="go on until the connection ends")
    options = parser.parse_args(argv)
    log = options.root.expanduser() / "run" / LOG
    if log.is_file():
        with open(log, encoding="utf-8", errors="replace") as stream:
            for line in deque(stream, maxlen=options.n):
                _tell(line)
            while options.follow:
                _go_on(stream)
    print(json.dumps({"ok": True}), flush=True)
    return 0


def _go_on(stream: TextIO) -> None:
    if line := stream.readline():
        _tell(line)
        return
    time.sleep(LOOK_S)
    if Path(stream.name).stat().st_size < stream.tell():
        stream.seek(0)


def _tell(line: str) -> None:
    print(json.dumps({"line": line.rstrip("\n")}, ensure_ascii=False), flush=True)
