"""`selftest`: the first thing a runtime does on a board: its libraries load and compute rightly, before anything else stops.

In a child process: libraries for another processor are killed by their first wide instruction, and that is an answer here.
"""

import importlib
import json

from device.child import own_runtime, python_child
from device.errors import DeviceError

EXERCISES = {"llama.cpp": "device.engine.llama.kernels"}
"""Engine → the module whose `exercise()` returns the error of each of its kernels, or raises DeviceError."""


def selftest(argv: list[str]) -> int:
    """Exercise every engine of this runtime; print its errors, raise DeviceError `illegal_instruction` or `bad_runtime`."""
    runtime = own_runtime()
    engines = sorted(runtime.engines) if runtime else sorted(EXERCISES)
    done = {
        engine: python_child("device.selftest", EXERCISES[engine])["errors"]
        for engine in engines
        if engine in EXERCISES
    }
    print(json.dumps({"ok": True, "errors": done}), flush=True)
    return 0


def answer(module: str) -> None:
    """Print the result of an exercise made in this process: the child's side of `selftest`."""
    try:
        result = {"errors": importlib.import_module(module).exercise()}
    except DeviceError as error:
        result = error.as_json()
    except (ImportError, OSError, RuntimeError) as error:
        # llama-cpp-python says a library that cannot be loaded with a RuntimeError
        result = DeviceError(
            "bad_runtime", f"the engine does not load: {error}", _hint(error)
        ).as_json()
    print(json.dumps(result), flush=True)


def _hint(error: Exception) -> str:
    """Return what to do about a library that is there and may not be executed (dlopen(3), of a mount with `noexec`)."""
    if "failed to map segment" in str(error):
        return (
            "the store is on a file system mounted with noexec: DEMITASSE_ROOT names another place"
        )
    return ""
