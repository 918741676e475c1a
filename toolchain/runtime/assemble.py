"""Assembles a runtime folder from installed distributions, free of the host's Python version.

The same inputs give the same folder and so the same id. A folder is built once and kept by its id.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from device.manifest import (
    RUNTIME_MANIFEST,
    ManifestError,
    RuntimeManifest,
    file_entry,
    read_bounded,
    to_bytes,
    verify_files,
)
from toolchain.agent import MAIN, cache, device_files, device_folder
from toolchain.errors import ToolError
from toolchain.files import keep_folder

SERVER = (
    "anyio",
    "click",
    "exceptiongroup",
    "h11",
    "jinja2",
    "markupsafe",
    "starlette",
    "typing_extensions",
    "uvicorn",
)
# anyio needs exceptiongroup on Python 3.10.
"""Pure-Python distributions of the runtime."""
LLAMA_PYTHON = ("llama_cpp.py", "_ctypes_extensions.py")
# The package around it needs numpy and diskcache.
"""llama-cpp-python's low-level interface, without the package around it."""
EYES, EYES_PYTHON = "libmtmd.so", "mtmd_cpp.py"
"""The library that reads pictures, and its low-level interface: both travel or neither."""
THIS_PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
_IMPORTS = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "import device.serve.server, device.serve.serving, "
)


def assemble_llama(described: RuntimeManifest, llama: Path, libraries: list[Path]) -> Path:
    """Return the runtime folder with llama.cpp's native libraries; `llama` holds LLAMA_PYTHON."""
    has_eyes = any(library.name == EYES for library in libraries)

    def fill(staged: Path) -> None:
        """Copy the Python files and the libraries into the staged folder."""
        (staged / "llama_cpp" / "lib").mkdir(parents=True)
        (
            staged / "llama_cpp" / "__init__.py"
        ).touch()  # without it a llama_cpp that the board has installed would be taken
        for name in (*LLAMA_PYTHON, *([EYES_PYTHON] if has_eyes else [])):
            _copy(llama / name, staged / "llama_cpp" / name)

        for library in libraries:
            _copy(library, staged / "llama_cpp" / "lib" / library.name)

        _copy_distribution("llama-cpp-python", staged)

    return _assemble(
        described, fill, f"device.engine.llama{', device.engine.llama.eyes' if has_eyes else ''}"
    )


def assemble_site(described: RuntimeManifest, site: Path, module: str) -> Path:
    """Return the runtime folder with the packages of a site folder, for one Python.

    `module` is the engine's, which must load there.
    """

    def fill(staged: Path) -> None:
        shutil.copytree(
            site, staged, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )

    return _assemble(described, fill, module)


def _assemble(described: RuntimeManifest, fill: Callable[[Path], None], engine: str) -> Path:
    """Return the runtime folder, built once and checked by an import where it can run here.

    `described` says what its libraries need; its list of files is filled in here.
    """
    runtimes = cache() / "runtimes"
    runtimes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runtimes, prefix=".") as folder:
        staged = Path(folder) / "runtime"
        _fill(staged)
        fill(staged)
        paths = sorted(
            file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()
        )
        files = tuple(file_entry(staged, path) for path in paths)
        manifest = RuntimeManifest(**{**vars(described), "files": files})
        final = runtimes / manifest.runtime_id()
        if not _is_whole(final, manifest):
            (staged / RUNTIME_MANIFEST).write_bytes(to_bytes(manifest))
            if _runs_here(described):
                _check(staged, engine)
            if os.path.lexists(final):
                final.rename(Path(folder) / "damaged")
            keep_folder(staged, final)

    return final


def _runs_here(described: RuntimeManifest) -> bool:
    """Say whether this computer can import a runtime: CUDA's libraries are the board's own."""
    same = described.machine == platform.machine()
    return same and described.python_tag in ("", THIS_PYTHON) and "cuda" not in described.extra


def _is_whole(folder: Path, manifest: RuntimeManifest) -> bool:
    """Return whether a runtime of the cache still holds every byte that its manifest names.

    A power cut or a full disk leaves files cut, and no board would take such a runtime.
    """
    expected = to_bytes(manifest)
    if read_bounded(folder / RUNTIME_MANIFEST, len(expected)) != expected:
        return False
    try:
        verify_files(folder, manifest.files, RUNTIME_MANIFEST)
    except (ManifestError, OSError):
        return False
    return True


def _fill(staged: Path) -> None:
    staged.mkdir()
    (staged / "__main__.py").write_text(MAIN, encoding="utf-8")
    for file in device_files():
        _copy(file, staged / "device" / file.relative_to(device_folder()))
    for name in SERVER:
        _copy_distribution(name, staged)


def _copy_distribution(name: str, staged: Path) -> None:
    """Copy a distribution's Python files and licences; only the licences of llama-cpp-python."""
    for file in importlib.metadata.files(name) or []:
        parts = file.parts
        about = parts[0].endswith(".dist-info") and (
            parts[1].startswith(("METADATA", "LICEN", "licen"))
        )
        code = file.suffix == ".py" and ".." not in parts and name != "llama-cpp-python"
        if about or code:
            _copy(Path(str(file.locate())), staged / Path(*parts))


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def _check(staged: Path, engine: str) -> None:
    command = [sys.executable, "-sESB", "-c", _IMPORTS + engine, str(staged)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise ToolError(
            f"the runtime does not load: {said[-1] if said else done.returncode}",
            hint="pip install --force-reinstall demitasse",
        )
