"""The program that installs updates on a board: the agent, behind two lines of shell.

It is put on the board once by its owner, and no update replaces it: what comes by an update server
is data until the board has checked who signed it.
"""

from toolchain.agent import build_agent

_SHELL = '#!/bin/sh\nexec python3 -sE "$0" {verb} "$@"\n'


def installer(verb: str) -> bytes:
    """Return the program that calls a verb of the agent with the words that it is called with."""
    # Python runs a zip file whatever stands before it; the shell never reads past `exec`.
    return _SHELL.format(verb=verb).encode() + build_agent().read_bytes()
