"""Engines: one library that runs one kind of model file, behind one protocol (`base.Engine`)."""

import importlib
from contextlib import suppress
from pathlib import Path

from device.engine.base import Engine, Settings
from device.errors import DeviceError

_MODULES = {
    ".gguf": "device.engine.llama",
    ".onnx": "device.engine.ort",
    ".tflite": "device.engine.lite",
}
"""Suffix of a model file → the module whose `load` runs it. Only that module imports the library.
"""


def import_engine(path: Path) -> None:
    """Import the library for a model file ahead of `load`.

    Errors are ignored here: `load` raises them with their reason.
    """
    with suppress(KeyError, ImportError, OSError, RuntimeError):
        importlib.import_module(_MODULES[path.suffix])


def streamed_bytes(path: Path) -> int:
    """Return the bytes of a model file that are read for each token, as its engine counts them.

    All of its bytes if no engine has its suffix.
    """
    if path.suffix not in _MODULES:
        return path.stat().st_size

    size: int = importlib.import_module(_MODULES[path.suffix]).streamed_bytes(path)
    return size


def load(path: Path, settings: Settings) -> Engine:
    """Load a model file with the engine of its suffix.

    Raise DeviceError `bad_model` or `no_engine`.
    """
    if path.suffix not in _MODULES:
        kinds = " and ".join(_MODULES)
        raise DeviceError(
            "bad_model",
            f"`{path.name}` is no model file that this runtime runs",
            hint=f"it runs {kinds}",
        )
    if not path.is_file():
        raise DeviceError("bad_model", f"`{path.name}` is missing")

    try:
        module = importlib.import_module(_MODULES[path.suffix])
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(
            "no_engine", f"this runtime cannot run {path.suffix} files: {error}"
        ) from error

    engine: Engine = module.load(path, settings)
    return engine
