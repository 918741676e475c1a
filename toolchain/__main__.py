"""One door: runs the command line, and turns errors into a sentence and an exit code."""

import io
import os
import sys

from toolchain import console
from toolchain.cli import app
from toolchain.errors import ToolchainError


def main() -> None:
    """Run `demitasse`; exits with the code of DESIGN section 8, 2 for a wrong command line, 130 for Ctrl-C."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "PASSIVE"
    )  # before torch is loaded: its threads are not to spin where others run
    # Nothing that is made here may be written by others, whatever umask the caller has.
    os.umask(os.umask(0o022) | 0o022)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ToolchainError as error:
        console.show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
