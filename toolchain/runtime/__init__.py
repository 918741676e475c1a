"""What boards run: the agent (our own code alone) and runtimes (with the engine's libraries), for one kind of processor each."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from device.manifest import ManifestError, RuntimeManifest, read_runtime
from toolchain.errors import ArtifactError, ToolError
from toolchain.progress import Reporter
from toolchain.runtime import cross
from toolchain.runtime.assemble import OLDEST_PYTHON, agent, assemble, device_folder
from toolchain.runtime.elf import glibc_floor
from toolchain.tools import llama

__all__ = ["agent", "bindings", "device_folder", "for_profile", "for_this_computer"]

THIS_COMPUTER = {"x86_64": "x86-64"}
"""`uname -m` → the profile whose runtime a computer of that kind assembles of its own installed libraries."""


def for_profile(profile: str, report: Reporter) -> Path:
    """Return the runtime folder for boards of a profile; DEMITASSE_RUNTIME names a folder to use instead.

    This computer's own kind is assembled of what is installed, every other is cross-built once (minutes). Raise ToolError
    if a tool for that is missing.
    """
    if given := os.environ.get("DEMITASSE_RUNTIME"):
        return _given(Path(given))
    if profile == THIS_COMPUTER.get(platform.machine()):
        return for_this_computer()
    libraries = [cross.build_library(profile, report) / "lib" / "libllama.so"]
    processor = cross.PROFILES[profile]
    return _assemble(profile, processor.machine, processor.features, libraries)


def for_this_computer() -> Path:
    """Return the runtime folder for this very computer, of the llama-cpp-python that is installed; built once."""
    folder = bindings() / "lib"
    machine = platform.machine()
    libraries = [folder / "libllama.so", *_ggml(folder)]
    return _assemble(THIS_COMPUTER.get(machine, machine), machine, llama.features(), libraries)


def _assemble(profile: str, machine: str, features: tuple[str, ...], libraries: list[Path]) -> Path:
    described = RuntimeManifest(
        machine=machine, features=tuple(sorted(features)), glibc=glibc_floor(libraries), python=OLDEST_PYTHON,
        engines={"llama.cpp": importlib.metadata.version("llama-cpp-python")}, files=(), profile=profile,
    )  # fmt: skip
    return assemble(described, bindings(), libraries)


def _given(folder: Path) -> Path:
    try:
        read_runtime(folder)
    except ManifestError as error:
        raise ArtifactError(f"{folder}: not a runtime: {error}", hint="DEMITASSE_RUNTIME names it") from error
    return folder


def bindings() -> Path:
    """Return the folder of llama-cpp-python's ctypes bindings and its libraries."""
    try:
        return Path(str(importlib.metadata.distribution("llama-cpp-python").locate_file("llama_cpp")))
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError("llama-cpp-python is not installed", hint="pip install llama-cpp-python") from error


def _ggml(folder: Path) -> list[Path]:
    """Return the libraries that libllama.so finds beside itself, under the one name that it asks for."""
    return sorted(file for file in folder.iterdir() if re.fullmatch(r"libggml[a-z-]*\.so\.\d+", file.name))
