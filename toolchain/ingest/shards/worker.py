"""A process that does jobs: one a line on its standard input, an answer a line on its output."""

import json
import os
import signal
import sys
import threading
import time

from toolchain.ingest.shards.engines import answered

EVERY_S = 0.5


def main() -> None:
    """Do jobs until the input ends, or whoever gave them is gone."""
    # Ctrl-C reaches all processes of a terminal: whoever gave the jobs ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    out, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        out.write(json.dumps(answered(line)) + "\n")
        out.flush()


def _end_with(parent: int) -> None:
    """End this process with its parent: another run may begin the same shards at once."""
    while os.getppid() == parent:
        time.sleep(EVERY_S)
    os._exit(1)


if __name__ == "__main__":
    main()
