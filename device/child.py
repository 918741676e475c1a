"""Engine work in a child process: a library that kills it does not end the caller."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from device.errors import DeviceError
from device.manifest import RUNTIME_MANIFEST, RuntimeManifest, read_runtime

Result = dict[str, Any]
_PR_SET_PDEATHSIG = 1
UNCOMPILED = ("-B",)
"""Options of Python that keep it from writing and running byte code that nobody signed."""
# A runtime is for any Python from 3.10 up, so its byte code cannot be made and signed where it is
# built. Byte code that a board compiles is executed like the sources, but no signature covers it:
# with one torn file no release starts, and a forged file runs as a signed release.
# It would save 0.3 s of 0.65 s of processor time until the server's modules are loaded, and 0.2 s
# of 0.35 s for a check (measured on x86-64). A Pi Zero 2 W is about 20 times slower: 7 s and 5 s.
# The standard library's byte code is the system's, and is used as ever.
LAST_WORDS_BYTES = 16 << 10
"""Maximum bytes of a child's stderr that are kept."""
# An engine that complains about each token must not fill the log.


def own_runtime() -> RuntimeManifest | None:
    """Return the manifest of the runtime that this file is part of; None outside of a runtime."""
    folder = Path(__file__).resolve().parent.parent
    return read_runtime(folder) if (folder / RUNTIME_MANIFEST).is_file() else None


def python_child(module: str, *arguments: str) -> Result:
    """Return what `module.answer(*arguments)` prints in a child process.

    Raise as `run_child` does.
    """
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        f"from {module} import answer; answer(*sys.argv[2:])"
    )
    runtime = Path(__file__).resolve().parent.parent
    return run_child([sys.executable, *UNCOMPILED, "-sE", "-c", code, str(runtime), *arguments])


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent (`preexec_fn`.

    PR_SET_PDEATHSIG of prctl(2)).
    """
    # A check must not keep its model in memory after nobody waits any more.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run_child(command: Sequence[str]) -> Result:
    """Return the JSON object that a command prints.

    Raise the error that it prints, or DeviceError for how it ended.
    """
    with tempfile.TemporaryFile() as complaints:
        child = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=complaints,
            check=False,
            preexec_fn=die_with_parent,
        )
        last = _end_of(complaints)

    sys.stderr.write(last)
    if child.returncode < 0:
        raise _died(signal.Signals(-child.returncode))
    if child.returncode > 0:
        words = last.strip().splitlines()
        why = words[-1][:300] if words else f"exit status {child.returncode}"
        raise DeviceError("internal_error", f"the engine's process failed: {why}")

    result: Result = json.loads(child.stdout)
    if fault := result.get("error"):
        raise DeviceError(fault["code"], fault["message"], fault["hint"])

    return result


def _end_of(complaints: BinaryIO) -> str:
    """Return the last bytes that a child wrote to its stderr."""
    size = complaints.seek(0, os.SEEK_END)
    complaints.seek(max(0, size - LAST_WORDS_BYTES))
    return complaints.read().decode(errors="replace")


def _died(number: signal.Signals) -> DeviceError:
    if number == signal.SIGILL:
        return illegal_instruction(own_runtime(), _cpu_features())
    out_of_memory = "the board ran out of memory: take a smaller model or a shorter context"
    hint = out_of_memory if number == signal.SIGKILL else "the model file may be damaged"
    return DeviceError("bad_model", f"the engine died of {number.name}", hint=hint)


def illegal_instruction(runtime: RuntimeManifest | None, features: Sequence[str]) -> DeviceError:
    """Return the error of a runtime that died by signal 4 on a processor with these features."""
    built = (runtime.profile or runtime.machine) if runtime else "another processor"
    lacking = sorted(set(runtime.features) - set(features)) if runtime else []
    has = (
        f"no {', '.join(lacking)}"
        if lacking
        else " ".join(features)[:300] or "an unknown processor"
    )
    message = f"illegal instruction: built for {built}, the board has {has}"
    return DeviceError(
        "illegal_instruction",
        message,
        hint="push with a runtime that is built for this board's own profile",
    )


def _cpu_features() -> list[str]:
    from device.facts import cpuinfo

    try:
        return list(
            cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))[
                "cpu_features"
            ]
        )
    except OSError:
        return []
