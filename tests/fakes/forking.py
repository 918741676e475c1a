"""A board's Python that is started once: each command is a fork of it, with all modules loaded.

`python3 -sE forking.py SOCKET AGENT` serves commands as `python3 -sE` would run them: the agent, a
program, or a program from standard input. The agent's modules are those of the agent file itself;
another agent is run by a Python of its own. A tenth of a second of processor time less a command.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LINE_LIMIT = 1 << 16
VERBS = ("activation", "switching", "receive", "service", "figures", "signers", "trust", "facts")


@contextmanager
def forking(folder: Path, agent: Path) -> Iterator[Path]:
    """Yield the socket of a Python that forks for each command; it ends with the block."""
    place = folder / "python.sock"
    server = subprocess.Popen([sys.executable, "-sE", __file__, str(place), str(agent)])
    try:
        while not place.exists():
            assert server.poll() is None, "the forking Python ended"
            time.sleep(0.02)
        yield place
    finally:
        server.kill()
        server.wait()
        place.unlink(missing_ok=True)


class Forked:
    """One command as a fork: what `subprocess.Popen` is for a process of its own."""

    def __init__(
        self, place: Path, argv: "list[str]", home: Path, environment: "dict[str, str]", stderr: int
    ) -> None:
        reads, self._writes = os.pipe()
        self._reads, writes = os.pipe()
        self._code: int | None = None
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(place))
        asked = json.dumps({"argv": argv, "home": str(home), "environment": environment})
        socket.send_fds(self._line, [asked.encode()], [reads, writes, stderr])
        os.close(reads)
        os.close(writes)
        self.stdin, self.stdout = os.fdopen(self._writes, "wb"), os.fdopen(self._reads, "rb")

    def wait(self, timeout: "float | None" = None) -> int:
        """Return the exit status; -9 for a command that died without one."""
        if self._code is None:
            self._line.settimeout(timeout)
            said = self._line.recv(1)
            self._line.close()
            self._code = said[0] if said else -signal.SIGKILL
        return self._code


def serve(place: str, agent: str) -> None:
    """Fork for each command that comes."""
    sys.path[0] = agent
    for name in ("__main__", *VERBS):
        importlib.import_module(f"device.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place + ".part")
        listener.listen(256)
        Path(place + ".part").rename(place)
        while True:
            line, _ = listener.accept()
            text, descriptors, _, _ = socket.recv_fds(line, LINE_LIMIT, 3)
            if text and os.fork() == 0:  # a host may be killed before it has asked
                listener.close()
                _become(line, json.loads(text), descriptors, agent)
            line.close()
            for descriptor in descriptors:
                os.close(descriptor)


def _become(
    line: socket.socket, asked: "dict[str, Any]", descriptors: "list[int]", agent: str
) -> None:
    """Run a command in this process, say how it ended, and end."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["home"])
        code = _run(asked["argv"], agent)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        line.send(bytes([code]))
        os._exit(code)


def _run(argv: "list[str]", agent: str) -> int:
    """Run `python3 -sE WHAT WORDS` in this process."""
    what, words = argv[2], argv[3:]
    if Path(what).name == Path(agent).name:
        sys.argv = [what, *words]
        return int(importlib.import_module("device.__main__").main(words))
    if what not in ("-", "-c"):
        return subprocess.run(argv, check=False).returncode
    text = sys.stdin.buffer.read().decode() if what == "-" else words.pop(0)
    sys.argv = [what, *words]
    exec(compile(text, what, "exec"), {"__name__": "__main__"})
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
