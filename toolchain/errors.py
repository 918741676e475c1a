"""The error tree: one root, one child for each thing the reader can do next, one exit code each (DESIGN section 8).

A message is `where: before what: problem` in lower case, with the offending value in backticks and no full stop.
"""


class ToolchainError(Exception):
    """Something the user can act on; everything else is a bug and shows its traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


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


class FitError(ToolchainError):
    """A model that would not run on the board."""

    exit_code = 5


class GateError(ToolchainError):
    """A model that is not good enough to ship."""

    exit_code = 6


class BoardError(ToolchainError):
    """A board that cannot be reached, was lost, or cannot do what is asked."""

    exit_code = 7


class TrustError(ToolchainError):
    """A host key, a signature or a version that must not be trusted."""

    exit_code = 8


class HealthError(ToolchainError):
    """A release that did not pass its check on the board and was taken back."""

    exit_code = 9
