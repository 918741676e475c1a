"""Errors: one root, a child for each thing that the reader can do next, an exit code each.

A message is `where: before what: problem` in lower case, with the offending value in backticks and
no full stop.
"""

import errno
from collections.abc import Sequence

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ToolchainError(Exception):
    """Something the user can act on; everything else is a bug and shows its traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.others: tuple[ToolchainError, ...] = ()
        """What else is wrong, where several things were found at once; the first one has the exit
        code."""


def all_of(errors: "Sequence[ToolchainError]") -> ToolchainError:
    """Return the first of several errors, which carries the others."""
    first, *others = errors
    first.others = (*first.others, *(each for other in others for each in (other, *other.others)))
    return first


class Interrupted(ToolchainError):  # noqa: N818 - not an error, but the end that a person asked for
    """Ctrl-C; 128 + SIGINT, as shells have it."""

    exit_code = 130


class ConfigError(ToolchainError):
    """A recipe, a target or a command line that must be corrected."""

    exit_code = 2


class TooLongError(ConfigError):
    """A conversation that the context of a board's release does not hold."""


class ToolError(ToolchainError):
    """A program or a library that must be installed."""

    exit_code = 3


class ArtifactError(ToolchainError):
    """A file that is broken, missing, or of a kind that is refused."""

    exit_code = 4


def of_the_disk(error: OSError) -> ArtifactError | None:
    """Return the error of a disk of this computer that takes no more; None for any other."""
    if error.errno not in _FULL:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return ArtifactError(
        f"{where}cannot be written: {(error.strerror or '').lower()}",
        hint="make room, or name another place with --out: a walk goes on with what is finished",
    )


class FitError(ToolchainError):
    """A model that would not run on the board."""

    exit_code = 5


class GateError(ToolchainError):
    """A model that is not good enough to ship."""

    exit_code = 6


class BoardError(ToolchainError):
    """A board that cannot be reached, was lost, or cannot do what is asked."""

    exit_code = 7


class UnreachableError(BoardError):
    """A board that is off, or that no network leads to."""


class BusyError(BoardError):
    """A board or a server that asks to be asked later: it is at work, or its model is loading."""


class TrustError(ToolchainError):
    """A host key, a signature or a version that must not be trusted."""

    exit_code = 8


class HealthError(ToolchainError):
    """A release that did not pass its check on the board and was taken back."""

    exit_code = 9
