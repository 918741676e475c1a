"""One door: runs the command line, and turns errors into a sentence and an exit code."""

import atexit
import io
import os
import sys

from toolchain import console
from toolchain.cli import app
from toolchain.errors import ToolchainError, of_the_disk

SURROUNDINGS = {
    # Before torch is loaded: its threads must not spin while other programs run.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Bars of transformers, safetensors and peft; ours show the progress.
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""What libraries read from the environment when they are loaded; what a person has set stays."""


def main() -> None:
    """Run `demitasse` and exit: the error's code, 2 for a wrong command line, 130 for Ctrl-C."""
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    # Nothing that is made here may be written by others, whatever umask the caller has.
    os.umask(os.umask(0o022) | 0o022)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    atexit.register(_close_files_of_llama_cpp)

    try:
        app()
    except ToolchainError as error:
        for each in (error, *error.others):
            console.show_error(each)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if (full := of_the_disk(error)) is None:
            raise
        console.show_error(full)
        sys.exit(full.exit_code)


def _close_files_of_llama_cpp() -> None:
    # llama-cpp-python opens two files when it is imported and leaves them open, which Python warns
    # of at the end where a library has turned such warnings on (llama_cpp/_utils.py).
    utils = sys.modules.get("llama_cpp._utils")
    for name in ("outnull_file", "errnull_file"):
        if file := getattr(utils, name, None):
            file.close()


if __name__ == "__main__":
    main()
