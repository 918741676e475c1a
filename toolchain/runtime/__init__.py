"""Runtimes: what a board runs to serve a model, a folder with the engine's libraries.

Each one is for one kind of processor (profile). Also for this computer itself.
"""

import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.manifest import ManifestError, RuntimeManifest, read_runtime
from toolchain.agent import OLDEST_PYTHON
from toolchain.errors import ArtifactError, ConfigError, ToolError
from toolchain.profiles import PROFILES, THIS_COMPUTER
from toolchain.progress import Reporter
from toolchain.runtime import cross
from toolchain.runtime.assemble import EYES, assemble_llama, assemble_site
from toolchain.runtime.elf import glibc_floor
from toolchain.runtime.site import python_of, site_folder
from toolchain.tools import llama

__all__ = [
    "assembled_once",
    "bindings",
    "for_board",
    "for_profile",
    "for_target",
    "for_this_computer",
    "lite_for_this_computer",
    "ort_for_this_computer",
    "with_site",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """An engine that comes as packages for one Python."""

    library: str
    """Distribution whose version is the engine's."""
    module: str
    """Module of the device package that runs it."""

    @property
    def requirements(self) -> tuple[str, ...]:
        """Distributions that a board imports."""
        return (self.library, "numpy", "tokenizers")


LITERT, ORT = "litert", "ort"
_SITES = {
    LITERT: _Site(library="ai-edge-litert", module="device.engine.lite"),
    ORT: _Site(library="onnxruntime", module="device.engine.ort"),
}
"""Engine → where it comes from, of those that are Python packages."""


def for_profile(profile: str, report: Reporter) -> Path:
    """Return the runtime folder for boards of a profile.

    DEMITASSE_RUNTIME names a folder to use instead. This computer's own kind is assembled from the
    installed packages, every other one is cross-built once, which takes minutes. Raises ToolError
    if a tool for that is missing.
    """
    if given := os.environ.get("DEMITASSE_RUNTIME"):
        return _given(Path(given))
    if profile == THIS_COMPUTER.get(platform.machine()):
        return for_this_computer()
    libraries = cross.build_libraries(profile, report)
    processor = PROFILES[profile]
    return _assemble(profile, processor.machine, processor.features, libraries)


def for_board(engine: str, profile: str, facts: Mapping[str, Any], report: Reporter) -> Path:
    """Return the runtime folder with an engine, for a board of a profile with these facts."""
    if engine in _SITES and not os.environ.get("DEMITASSE_RUNTIME"):
        return with_site(engine, facts, report, profile=profile)
    return for_profile(profile, report)


def for_target(engine: str, profile: str, report: Reporter) -> Path:
    """Return the runtime folder with an engine for boards that nobody has looked at.

    Raise ConfigError for an engine whose packages depend on a board's own Python.
    """
    if engine in _SITES and not os.environ.get("DEMITASSE_RUNTIME"):
        raise ConfigError(
            f"the runtime of {engine} depends on the Python of a board: none is known here",
            hint="DEMITASSE_RUNTIME names its folder; a push to one such board makes it",
        )
    return for_profile(profile, report)


def with_site(
    engine: str, facts: Mapping[str, Any], report: Reporter, *, profile: str = ""
) -> Path:
    """Return the runtime folder with an engine of Python packages, for one machine and Python.

    Wheels are fetched once.
    """
    packages = _SITES[engine]
    site = site_folder(
        packages.requirements, facts["machine"], facts["python_abi"], facts["glibc"] or "0", report
    )
    python = python_of(facts["python_abi"])
    about = next(site.glob(f"{packages.library.replace('-', '_')}-*.dist-info"))
    described = RuntimeManifest(
        machine=facts["machine"],
        features=(),
        glibc=glibc_floor([file for file in site.rglob("*.so*") if file.is_file()]),
        python=python,
        engines={engine: about.name.removesuffix(".dist-info").partition("-")[2]},
        files=(),
        profile=profile,
        python_tag=f"cp{python[0]}{python[1]}",
        dispatches=True,
    )
    return assemble_site(described, site, packages.module)


def lite_for_this_computer(report: Reporter) -> Path:
    """Return the runtime folder with LiteRT for this very computer and its Python."""
    return _site_for_this_computer(LITERT, report)


def ort_for_this_computer(report: Reporter) -> Path:
    """Return the runtime folder with ONNX Runtime for this very computer and its Python."""
    return _site_for_this_computer(ORT, report)


def _site_for_this_computer(engine: str, report: Reporter) -> Path:
    machine = platform.machine()
    facts = {
        "machine": machine,
        "python_abi": str(sysconfig.get_config_var("SOABI")),
        "glibc": platform.libc_ver()[1],
    }
    return with_site(engine, facts, report, profile=THIS_COMPUTER.get(machine, machine))


_assembled: ContextVar["dict[str, Path] | None"] = ContextVar("assembled", default=None)
"""Runtimes that were assembled in this context, each byte of them read; None outside of one."""


@contextmanager
def assembled_once() -> Iterator[None]:
    """Assemble this computer's own runtime once in this context, however often it is asked for."""
    # Each time costs 0.1 s of processor time: its files are copied, hashed, and compared with those
    # in the cache. A walk asks for it before three stages and at the push.
    before = _assembled.set({})
    try:
        yield
    finally:
        _assembled.reset(before)


def for_this_computer() -> Path:
    """Return the runtime folder for this very computer, from its llama-cpp-python; built once.

    It sees pictures if the installed package was built with libmtmd.
    """
    known = _assembled.get()
    if known is None:
        return _for_this_computer()
    machine = platform.machine()
    if machine not in known:
        known[machine] = _for_this_computer()
    return known[machine]


def _for_this_computer() -> Path:
    folder = bindings() / "lib"
    machine = platform.machine()
    eyes = [folder / EYES] if llama.sees() else []
    libraries = [folder / "libllama.so", *_ggml(folder), *eyes]
    return _assemble(THIS_COMPUTER.get(machine, machine), machine, llama.features(), libraries)


def _assemble(profile: str, machine: str, features: tuple[str, ...], libraries: list[Path]) -> Path:
    described = RuntimeManifest(
        machine=machine,
        features=tuple(sorted(features)),
        glibc=glibc_floor(libraries),
        python=OLDEST_PYTHON,
        engines={"llama.cpp": importlib.metadata.version("llama-cpp-python")},
        files=(),
        profile=profile,
    )
    return assemble_llama(described, bindings(), libraries)


def _given(folder: Path) -> Path:
    try:
        read_runtime(folder)
    except ManifestError as error:
        raise ArtifactError(
            f"{folder}: not a runtime: {error}", hint="DEMITASSE_RUNTIME names it"
        ) from error
    return folder


def bindings() -> Path:
    """Return the folder of llama-cpp-python's ctypes bindings and its libraries."""
    try:
        return Path(
            str(importlib.metadata.distribution("llama-cpp-python").locate_file("llama_cpp"))
        )
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(
            "llama-cpp-python is not installed", hint="pip install llama-cpp-python"
        ) from error


def _ggml(folder: Path) -> list[Path]:
    """Return the libraries that libllama.so loads from its own folder, each under one name."""
    return sorted(
        file for file in folder.iterdir() if re.fullmatch(r"libggml[a-z-]*\.so\.\d+", file.name)
    )
