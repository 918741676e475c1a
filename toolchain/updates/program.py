"""The program that installs updates on a board: the agent, behind some lines of shell.

It is put on the board once by its owner, and no update replaces it: what comes by an update server
is data until the board has checked who signed it.
"""

from toolchain.agent import build_agent

MENDER = """\
#!/bin/sh
case "$1" in
SupportsRollback) echo Yes ;;
NeedsArtifactReboot) echo No ;;
ArtifactInstall | ArtifactCommit | ArtifactRollback) exec python3 -sE "$0" mender "$@" ;;
esac
exit 0
"""
"""Lines of the update module: what needs no program is answered at once."""
# Python takes a second of a small board's time, and Mender asks several questions an update.
INSTALL = '#!/bin/sh\nexec python3 -sE "$0" install "$@"\n'
"""Lines of the program that any other client calls."""


def installer(shell: str) -> bytes:
    """Return the program of these lines and the agent."""
    # Python runs a zip file whatever stands before it; the shell never reads past `exit`.
    return shell.encode() + build_agent().read_bytes()
