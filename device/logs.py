"""`logs`: the last lines that the service wrote; with --follow, new ones as they come."""

import argparse
import io
import json
import os
import select
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
        while options.follow and _go_on(log, stream):
            pass

    print(json.dumps({"ok": True}), flush=True)
    return 0


def _opened(log: Path) -> TextIO:
    """Return a log, positioned MOST_BYTES before its end.

    Raise OSError if it is not a regular file.
    """
    raw = stream_of(log)
    raw.seek(max(0, os.fstat(raw.fileno()).st_size - MOST_BYTES))
    return io.TextIOWrapper(raw, encoding="utf-8", errors="replace")


def _go_on(log: Path, stream: TextIO) -> bool:
    """Tell the next line, or wait a moment for one; return False if nobody listens any more."""
    if line := stream.readline(MOST_LINE):
        _tell(line)
        return True

    if not _is_heard_after(LOOK_S):
        return False
    if log.stat().st_size < stream.tell():
        stream.seek(0)
    return True


def _is_heard_after(seconds: float) -> bool:
    """Wait; return False as soon as nobody can read standard output any more."""
    # While the service writes nothing, no write would fail, and this stayed without its host.
    listener = select.poll()
    listener.register(1, 0)
    return not listener.poll(seconds * 1000)


def _tell(line: str) -> None:
    print(json.dumps({"line": line.rstrip("\n")[:MOST_LINE]}, ensure_ascii=False), flush=True)
