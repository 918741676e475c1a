"""`selftest`: checks first of all that a runtime's libraries load and compute correctly.

It runs before the current service stops, and in a child process: libraries for another processor
die on their first wide instruction, and that is a result here.
"""

import importlib
import json

from device.child import own_runtime, python_child
from device.errors import DeviceError

EXERCISES = {"llama.cpp": "device.engine.llama.kernels"}
"""Engine → module whose `exercise()` returns the error of each kernel, or raises DeviceError."""


def selftest(argv: list[str]) -> int:
    """Exercise every engine of this runtime and print its errors.

    Raise DeviceError `illegal_instruction` or `bad_runtime`.
    """
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
    """Return a hint for a library that the kernel does not execute (dlopen(3), `noexec`)."""
    if "failed to map segment" in str(error):
        return (
            "the store is on a file system mounted with noexec: DEMITASSE_ROOT names another place"
        )
    return ""
