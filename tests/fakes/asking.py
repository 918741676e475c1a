"""A board's own client, run on this computer: what `talk` needs of a board, without the board."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolchain.board.device import parse


class Channel:
    """The two ends of the board's own client, run here."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "device", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def send(self, content: bytes) -> None:
        assert self.child.stdin
        self.child.stdin.write(content)

    def close_input(self) -> None:
        assert self.child.stdin
        self.child.stdin.close()


class AskDevice:
    """A board as `talk` needs it: its client asks a service on a port of this computer."""

    def __init__(self, port: int) -> None:
        self._port = str(port)

    @contextmanager
    def talk(self, verb: str, *words: str) -> Iterator[Channel]:
        channel = Channel((verb, "--port", self._port, *words))
        try:
            yield channel
        finally:
            assert channel.child.stdout
            channel.child.stdout.close()
            channel.child.wait(timeout=60)

    def events(self, channel: Channel, verb: str) -> Iterator[dict[str, Any]]:
        assert channel.child.stdout
        for line in channel.child.stdout:
            yield parse("local", verb, line)
