"""Commands as a board's login shell must get them."""

import shlex
from collections.abc import Sequence


def command_line(argv: Sequence[str]) -> str:
    """Return a line that any login shell hands to `sh`: an argument that begins with `~/` is in the board user's home.

    The shell stays, so that a command that dies by signal n ends with 128 + n (SSH itself would not tell paramiko).
    """
    return "exec sh -c " + shlex.quote(" ".join(map(_quoted, argv)) + "\nexit $?")


def _quoted(argument: str) -> str:
    return (
        f"~/{shlex.quote(argument[2:])}"
        if argument.startswith("~/") and len(argument) > 2
        else shlex.quote(argument)
    )
