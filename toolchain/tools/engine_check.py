"""Self-test of llama.cpp's installed libraries, in a child process.

`pip install llama-cpp-python` compiles llama.cpp with `-march=native`: for the very processor of
the build. On another computer its first wide instruction ends the process with signal 4 (SIGILL).
"""

import importlib.metadata
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from toolchain.agent import device_folder
from toolchain.errors import ToolError

_PATIENCE_S = 120
PORTABLE = "CMAKE_ARGS='-DGGML_NATIVE=OFF'"
"""Setting with which llama.cpp is built for any processor of this kind."""


def run(folder: Path | None = None) -> None:
    """Run the self-test of the boards' runtime here; raise ToolError if the engine fails it.

    Does nothing where llama-cpp-python is not installed. `folder` holds the `device` package; by
    default the one of this installation.
    """
    if folder is None and importlib.util.find_spec("llama_cpp") is None:
        return
    place = folder or device_folder().parent
    done = subprocess.run(
        [sys.executable, "-B", "-m", "device", "selftest"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    fault = _fault(done.stdout)
    if not fault and not done.returncode:
        return
    if fault.get("code") == "illegal_instruction":
        raise ToolError(
            "llama.cpp was built for another processor than this one (illegal instruction)",
            # Without --no-cache-dir pip takes the wheel that it built the first time.
            hint=f"{PORTABLE} {_reinstall('--no-cache-dir')}",
        )
    raise ToolError(
        str(fault.get("message") or f"its self-test ended with exit status {done.returncode}"),
        hint=_reinstall(),
    )


def _fault(output: str) -> dict[str, Any]:
    """Return the error that the self-test printed; empty if it printed none."""
    try:
        answer = json.loads(output)
    except ValueError:
        return {}
    fault = answer.get("error") if isinstance(answer, dict) else None
    return fault if isinstance(fault, dict) else {}


def _reinstall(*options: str) -> str:
    """Return the command that installs this version of llama-cpp-python again, for this Python."""
    try:
        package = f"llama-cpp-python=={importlib.metadata.version('llama-cpp-python')}"
    except importlib.metadata.PackageNotFoundError:
        package = "llama-cpp-python"
    pip = [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps"]
    return shlex.join([*pip, *options, package])
