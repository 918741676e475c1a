"""Commands as a board's login shell must get them, whichever shell that is.

The login shell sees `sh -c 'eval "$(printf %b "$@")"' sh '…' '…'`, where … holds letters, digits
and octal escapes: no character that csh, fish, zsh or another shell would read in its own way. `sh`
decodes the script, which first prints MARK. All output before MARK comes from the login shell's own
start files, such as an `echo` in ~/.bashrc.
"""

import shlex
import string
from collections.abc import Mapping, Sequence

MARK = b"demitasse: begins\n"
# _PRINT_MARK spells it otherwise: a shell that repeats its command line must not print it.
"""Line that is printed on both outputs before the command."""
_PRINT_MARK = "printf 'demitasse: begins\\n'; printf 'demitasse: begins\\n' >&2"
_WORD_BYTES = 200
# A byte takes up to five characters, and BSD's csh takes no word of more than 1,024.
"""Bytes of the script in one word."""
_PLAIN = frozenset((string.ascii_letters + string.digits + "_-./=,+").encode())


def command_line(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return a line that any login shell hands to `sh`; `~/` in front is the board user's home.

    The shell stays, so that a command that dies by signal n ends with status 128 + n: paramiko does
    not hear of the signal from SSH.
    """
    variables = [
        f"{name}={shlex.quote(value)}; export {name}" for name, value in (environment or {}).items()
    ]
    script = "\n".join([*variables, _PRINT_MARK, " ".join(map(_quoted, argv)), "exit $?"])
    encoded = script.encode("utf-8", "surrogateescape")
    words = [
        f"'{_spelled(encoded[start : start + _WORD_BYTES])}'"
        for start in range(0, len(encoded), _WORD_BYTES)
    ]
    return " ".join([r"""sh -c 'eval "$(printf %b "$@")"' sh""", *words])


def _quoted(argument: str) -> str:
    return (
        f"~/{shlex.quote(argument[2:])}"
        if argument.startswith("~/") and len(argument) > 2
        else shlex.quote(argument)
    )


def _spelled(script: bytes) -> str:
    """Return bytes as an argument of `printf %b`, which joins its arguments without a separator."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in script)
