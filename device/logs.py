"""`logs`: the last lines that the service wrote; with --follow, new ones as they come."""

import argparse
import io
import json
import os
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from device.manifest.reading import stream_of

LOG = "service.log"
MOST_LINES = 10_000
MOST_BYTES, MOST_LINE = 4 << 20, 64 << 10
"""Maximum bytes that are read, and of one line."""
# The supervisor bounds the log at 1 MiB, but only every ten seconds; a line may be all of it.
LOOK_S = 0.5


def logs(argv: list[str]) -> int:
    """Print one JSON line for each line of the log: `logs --root ROOT [-n N] [--follow]`."""
    parser = argparse.ArgumentParser(prog="logs")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("-n", type=int, default=50, choices=range(MOST_LINES + 1), metavar="LINES")
    parser.add_argument("--follow", action="store_true", help="go on until the connection ends")
    options = parser.parse_args(argv)
    log = options.root.expanduser() / "run" / LOG

    with suppress(FileNotFoundError), _opened(log) as stream:
        for line in deque(stream, maxlen=options.n):
            _tell(line)
        while options.follow:
            _go_on(log, stream)

    print(json.dumps({"ok": True}), flush=True)
    return 0


def _opened(log: Path) -> TextIO:
    """Return a log, positioned MOST_BYTES before its end.

    Raise OSError if it is not a regular file.
    """
    raw = stream_of(log)
    raw.seek(max(0, os.fstat(raw.fileno()).st_size - MOST_BYTES))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace")


def _go_on(log: Path, stream: TextIO) -> None:
    if line := stream.readline(MOST_LINE):
        _tell(line)
        return

    time.sleep(LOOK_S)
    if log.stat().st_size < stream.tell():
        stream.seek(0)


def _tell(line: str) -> None:
    print(json.dumps({"line": line.rstrip("\n")[:MOST_LINE]}, ensure_ascii=False), flush=True)
