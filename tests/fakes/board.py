"""A board that is a folder of this computer: real commands, the real protocol, no SSH."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.forking import Forked
from toolchain.board.connection import Finished
from toolchain.board.kind import Kind, kind_of
from toolchain.errors import BoardError


class FakeConnection:
    """Runs a board's commands with a home of its own.

    The line is dead after `cut_after` bytes to the board, or after `deaf_after` from it. With
    `python` its commands are forks of that one (tests/fakes/forking.py).
    """

    def __init__(
        self,
        home: Path,
        *,
        cut_after: int | None = None,
        address: str = "local",
        path: str = "",
        python: Path | None = None,
    ) -> None:
        self.home, self.cut_after, self._address = home, cut_after, address
        self.deaf_after: int | None = None
        self.python = python
        self.commands: list[Sequence[str]] = []
        self.sent = self.heard = 0
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": path or os.environ["PATH"],
            "PYTHONWARNINGS": "",
        }

    @property
    def address(self) -> str:
        return self._address

    @property
    def kind(self) -> Kind:
        return kind_of(self._address)

    @property
    def root(self) -> str:
        return "~/store"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        beat_s: float = 0.0,
    ) -> Finished:
        channel = self.open(argv)
        try:
            channel.send(stdin)
            if not beat_s:  # an open input counts as a host that lives, for as long as tests take
                channel.close_input()
        except BoardError:
            if self.cut_after is not None or self.deaf_after is not None:
                raise
        try:
            return channel.finish()
        finally:
            channel.close()

    def open(self, argv: Sequence[str]) -> "FakeChannel":
        self.commands.append(argv)
        return FakeChannel(
            self, [str(self.home / word[2:]) if word.startswith("~/") else word for word in argv]
        )

    def close(self) -> None:
        """There is nothing to hang up."""


class FakeChannel:
    """One command as a child process."""

    def __init__(self, board: FakeConnection, argv: list[str]) -> None:
        self._board = board
        self._complaints = board.home / f"stderr-{len(board.commands)}"
        try:
            with self._complaints.open("wb") as stderr:
                self._child = self._started(argv, stderr.fileno())
        except FileNotFoundError:
            self._child = subprocess.Popen(
                ["sh", "-c", "exit 127"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self._child.stdin and self._child.stdout
        self._input, self._output = self._child.stdin, self._child.stdout

    def _started(self, argv: list[str], stderr: int) -> "subprocess.Popen[bytes] | Forked":
        board = self._board
        if board.python and argv[0] == "python3":
            return Forked(board.python, argv, board.home, board.environment, stderr)
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=board.environment,
            cwd=board.home,
        )

    def send(self, chunk: bytes | memoryview) -> None:
        left = (
            len(chunk)
            if self._board.cut_after is None
            else max(0, self._board.cut_after - self._board.sent)
        )
        try:
            self._input.write(chunk[:left])
            self._input.flush()
        except OSError as error:
            raise self._lost() from error
        self._board.sent += min(left, len(chunk))
        if left < len(chunk):
            self.close()
            raise self._lost()

    def close_input(self) -> None:
        try:
            self._input.close()
        except BrokenPipeError as error:
            raise self._lost() from error

    def read_line(self) -> bytes:
        return self._heard(self._output.readline()) if not self._output.closed else b""

    def read(self, size: int) -> bytes:
        return self._heard(self._output.read(size))

    def finish(self) -> Finished:
        with self._output:
            stdout = self._output.read()
        code = self._child.wait()
        return Finished(
            code=code if code >= 0 else 128 - code,
            stdout=self._heard(stdout),
            stderr=self._complaints.read_text(),
        )

    def close(self) -> None:
        for stream in (self._input, self._output):
            try:
                stream.close()
            except BrokenPipeError:
                continue
        self._child.wait(timeout=30)

    def _heard(self, said: bytes) -> bytes:
        self._board.heard += len(said)
        if self._board.deaf_after is not None and self._board.heard > self._board.deaf_after:
            self.close()
            raise self._lost()
        return said

    def _lost(self) -> BoardError:
        return BoardError(f"{self._board.address}: connection lost at byte {self._board.sent:,}")
