"""A command that runs on a board, over an SSH channel (`connection.Channel`).

What a board prints is hostile input. An answer is bounded in bytes and in time, and what the login
shell prints before the command is skipped. The one rule: nothing that comes from the board can make
this side wait or grow without end.
"""

import contextlib
import struct
import threading
import time
from collections.abc import Iterator

import paramiko

from toolchain.board.connection import Finished
from toolchain.board.shell import MARK
from toolchain.errors import BoardError

SEND_BYTES = (32 << 10) - 64
# 64 bytes more would go as a second packet, and paramiko copies a long rest each time.
"""Largest payload that paramiko fits into one of OpenSSH's packets."""
STALLED_S = 120.0
ANSWER_S = 3600.0
"""Seconds a a command may need for a line of its answer; a check on a slow board takes minutes."""
BEGIN_S = 60.0
"""Seconds that a login shell may take until the command begins."""
MAX_ANSWER_BYTES = 16 << 20
"""Limit of an answer. Our longest one names each tensor of a model, some 200 bytes each."""
MAX_BANNER_BYTES = 1 << 20
KEPT_STDERR_BYTES = 64 << 10
MAX_STDERR_BYTES = 64 << 20
GO_ON = "run the same command again: it goes on where it stopped"
WIRE_ERRORS = (
    paramiko.SSHException,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
)
"""What paramiko raises for a lost line, or for bytes that are not SSH (errors of its reader)."""


class SshChannel:
    """A command that is running on the board; it has a time limit if it is run to its end."""

    def __init__(self, address: str, channel: paramiko.Channel, timeout_s: float | None) -> None:
        self._address, self._channel, self._limit_s = address, channel, timeout_s
        self._deadline = time.monotonic() + timeout_s if timeout_s else None
        self._sent = 0
        self._began = False
        self._buffer = bytearray()
        self._complaints = bytearray()
        self._complained = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, chunk: bytes | memoryview) -> None:
        """Write to the command's standard input."""
        view = memoryview(chunk)
        with self._watched(STALLED_S):
            for start in range(0, len(view), SEND_BYTES):
                # A board that ignores its window may talk without end while nobody reads.
                if len(self._channel.in_buffer) > MAX_ANSWER_BYTES:
                    raise self._flood()
                piece = bytes(view[start : start + SEND_BYTES])
                self._channel.sendall(piece)
                self._sent += len(piece)

    def feed(self, content: bytes, beat_s: float = 0.0) -> None:
        """Write all of the input and end it; with `beat_s` go on with newlines while it runs.

        A command may end without having read its input; its exit status says so.
        """
        with contextlib.suppress(BoardError):
            self.send(content)
            while beat_s and not self._channel.status_event.wait(beat_s):
                self.send(b"\n")
            self.close_input()

    def close_input(self) -> None:
        """Send end of file."""
        with self._watched(STALLED_S):
            self._channel.shutdown_write()

    def read_line(self) -> bytes:
        """Return the next line with its newline, b"" at the end."""
        self._begin()
        until = time.monotonic() + ANSWER_S
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if not self._receive(until):
                return self._take(len(self._buffer))

        return self._take(end + 1)

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer at the end."""
        self._begin()
        until = time.monotonic() + ANSWER_S
        while len(self._buffer) < size and self._receive(until):
            pass
        return self._take(size)

    def finish(self) -> Finished:
        """Wait for the end and return what was not read before."""
        self._begin()
        until = time.monotonic() + ANSWER_S
        while self._receive(until):
            pass
        code = self._exit_status(until)
        stderr = self._last_words()
        return Finished(code=code, stdout=self._take(len(self._buffer)), stderr=stderr)

    def close(self) -> None:
        """Close the channel; the command on the board may go on."""
        # A line that is cut cannot be told, and paramiko raises this from its socket; what the cut
        # means is said by whoever reads or writes.
        with contextlib.suppress(EOFError, OSError):
            self._channel.close()

    def _begin(self) -> None:
        """Skip what the login shell printed before the command.

        Raises BoardError with the shell's last words if the command never began.
        """
        if self._began:
            return

        until = time.monotonic() + BEGIN_S
        while (at := self._buffer.find(MARK)) < 0:
            if len(self._buffer) > MAX_BANNER_BYTES:
                raise self._no_begin("it prints without end", "")
            if not self._receive(until):
                code = self._exit_status(until)
                raise self._no_begin(f"it ended with exit status {code}", self._last_words())

        del self._buffer[: at + len(MARK)]
        self._began = True

    def _no_begin(self, how: str, complaint: str) -> BoardError:
        printed = complaint.strip() or self._buffer[-300:].decode(errors="replace").strip()
        words = f" and printed `{' '.join(printed.split())[-300:]}`" if printed else ""
        return BoardError(
            f"{self._address}: the login shell runs no commands: {how}{words}",
            hint="log in and look at the user's shell and its start files: "
            "`ssh BOARD true` must end without an error",
        )

    def _exit_status(self, until: float) -> int:
        with self._watched(max(until - time.monotonic(), 0.01)):
            while not self._channel.status_event.wait(0.2):
                if time.monotonic() > (self._deadline or until):
                    raise TimeoutError

        self._listener.join(timeout=STALLED_S)
        if self._channel.exit_status < 0:
            raise self._lost()
        return int(self._channel.exit_status)

    def _receive(self, until: float) -> bool:
        with self._watched(max(until - time.monotonic(), 0.01)):
            chunk = self._channel.recv(64 << 10)

        self._buffer += chunk
        if len(self._buffer) > MAX_ANSWER_BYTES or self._complained > MAX_STDERR_BYTES:
            raise self._flood()
        if not chunk and self._channel.closed and self._channel.exit_status < 0:
            raise self._lost()
        return bool(chunk)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _listen(self) -> None:
        with contextlib.suppress(*WIRE_ERRORS):
            while chunk := self._channel.recv_stderr(32 << 10):
                self._complaints += chunk
                self._complained += len(chunk)
                if len(self._complaints) > 2 * KEPT_STDERR_BYTES:
                    del self._complaints[:-KEPT_STDERR_BYTES]
                if self._complained > MAX_STDERR_BYTES:
                    self._channel.close()
                    return

    def _last_words(self) -> str:
        """Return the end of the command's standard error."""
        said = bytes(self._complaints).rpartition(MARK)[2]
        return said[-KEPT_STDERR_BYTES:].decode(errors="replace")

    @contextlib.contextmanager
    def _watched(self, stalled_s: float) -> Iterator[None]:
        left = max(self._deadline - time.monotonic(), 0.01) if self._deadline else stalled_s
        self._channel.settimeout(left)
        try:
            yield
        except TimeoutError as error:
            if self._deadline:
                raise BoardError(f"{self._address}: no end after {self._limit_s:g} s") from error
            raise self._silent(stalled_s) from error
        except WIRE_ERRORS as error:
            raise self._lost() from error

    def _silent(self, stalled_s: float) -> BoardError:
        if self._channel.closed or stalled_s <= STALLED_S:
            return self._lost()
        return BoardError(f"{self._address}: no answer within {ANSWER_S:.0f} s")

    def _flood(self) -> BoardError:
        self._channel.close()
        return BoardError(
            f"{self._address}: it prints more than {MAX_ANSWER_BYTES >> 20} MB, "
            "no answer of ours is so long",
            hint="is this the board that you mean? its python3 may be another program",
        )

    def _lost(self) -> BoardError:
        if self._complained > MAX_STDERR_BYTES:
            return self._flood()
        return BoardError(f"{self._address}: connection lost at byte {self._sent:,}", hint=GO_ON)
