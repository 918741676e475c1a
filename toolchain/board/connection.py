"""The seam between the toolchain and any board: run a command, write to it, read from it.

Nothing else crosses. `ssh` implements it for real boards, `loopback` for this computer through an
sshd of its own, `tests/fakes` for tests.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from toolchain.board.kind import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a command on the board."""

    code: int
    """Exit status; 128 + n for a command that died by signal n."""
    stdout: bytes
    stderr: str


class Channel(Protocol):
    """A command that is running on the board."""

    def send(self, chunk: bytes | memoryview) -> None:
        """Write to its standard input; raise BoardError if the connection is lost."""

    def close_input(self) -> None:
        """Send end of file."""

    def read_line(self) -> bytes:
        """Return the next line of standard output with its newline, b"" at the end."""

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes of standard output, fewer at the end."""

    def finish(self) -> Finished:
        """Wait for the end; `stdout` of the result holds what was not read before."""

    def close(self) -> None:
        """Close the channel: the command loses its terminal and ends."""


class Connection(Protocol):
    """An open, authenticated connection to one board."""

    @property
    def address(self) -> str:
        """How the user names the board."""

    @property
    def kind(self) -> Kind:
        """What kind of board the address names."""

    @property
    def root(self) -> str:
        """Folder of the store on the board; `~` stands for the board user's home."""

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        beat_s: float = 0.0,
    ) -> Finished:
        """Run a command to its end; raise BoardError for a lost connection or past the limit.

        With `beat_s` its input stays open and gets a newline every so many seconds.
        """

    def open(self, argv: Sequence[str]) -> Channel:
        """Start a command and return the channel to it."""

    def close(self) -> None:
        """Hang up."""


def lines(channel: Channel) -> Iterator[bytes]:
    """Yield the lines that a command prints until it ends."""
    while line := channel.read_line():
        yield line
