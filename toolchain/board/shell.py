"""Commands as a board's login shell must get them, whichever shell that is.

The login shell sees `sh -c 'eval "$(printf %b "$@")"' sh '…' '…'`, where … holds letters, digits and octal escapes: no
character that csh, fish, zsh or another shell would read in its own way. `sh` makes the script of it, which first prints MARK:
what comes before was printed by the login shell's own files, such as an `echo` in ~/.bashrc.
"""

import shlex
import string
from collections.abc import Mapping, Sequence

MARK = b"demitasse: begins\n"
"""Printed on both outputs before the command; spelled so that a shell that repeats its command line does not print it."""
_PRINT_MARK = "printf 'demitasse: begins\\n'; printf 'demitasse: begins\\n' >&2"
_WORD_BYTES = 200
"""Bytes of the script in one word: five characters each at most, and BSD's csh takes no word of more than 1,024."""
_PLAIN = frozenset((string.ascii_letters + string.digits + "_-./=,+").encode())


def command_line(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Return a line that any login shell hands to `sh`: an argument that begins with `~/` is in the board user's home.

    The shell stays, so that a command that dies by signal n ends with 128 + n (SSH itself would not tell paramiko).
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
    """Return bytes as an argument of `printf %b`, which gives its arguments out without anything between them."""
    return "".join(chr(byte) if byte in _PLAIN else f"\\0{byte:03o}" for byte in script)
