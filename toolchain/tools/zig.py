"""zig as C and C++ compiler for other machines, driven by cmake and ninja.

All three come from the extra `cross`, none from the system. The caller's environment does not reach
them (CFLAGS, CPATH and their like would change the result): the same inputs give the same bytes.
"""

import importlib.metadata
import os
import re
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolError

_PROGRAMS = {"ziglang": "ziglang/zig", "cmake": "cmake/data/bin/cmake", "ninja": "ninja"}
"""Package → its program: a path inside the package, or a name among the environment's scripts."""
_INSTALL = "pip install 'demitasse[cross]'"
_STEP = re.compile(r"\[(\d+)/(\d+)\] ")
_KEPT = ("PATH", "TMPDIR")
_FAULT = re.compile(r"error:|CMake Error|FAILED:", re.IGNORECASE)
LOG = "build.log"
"""Name of the file in the build folder with the last output of cmake and ninja."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A CMake project and its build folder."""

    source: Path
    build: Path
    cache: Path
    """Folder of zig's own compiled files: the C and C++ libraries of each machine."""


def verify() -> dict[str, str]:
    """Return the versions of zig, cmake and ninja by package.

    Raises ToolError with the line that installs a missing one.
    """
    for package in _PROGRAMS:
        program(package)
    return {package: importlib.metadata.version(package) for package in _PROGRAMS}


def program(package: str) -> Path:
    """Return the program inside an installed package; raise ToolError if it is not there."""
    try:
        installed = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(f"`{package}` is not installed", hint=_INSTALL) from error

    place = _PROGRAMS[package]
    found = Path(str(installed.locate_file(place))) if "/" in place else _script(installed, place)
    if found is None or not os.access(found, os.X_OK):
        raise ToolError(f"`{package}` is installed without its program", hint=_INSTALL)
    return found


def configure(project: Project, settings: Mapping[str, str]) -> None:
    """Let cmake write the build folder; raise ToolError with its first error."""
    project.build.mkdir(parents=True, exist_ok=True)
    command = [
        str(program("cmake")),
        "-S",
        str(project.source),
        "-B",
        str(project.build),
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
        *(f"-D{name}={value}" for name, value in settings.items()),
    ]
    _run(command, project, lambda done, total: None)


def build(project: Project, target: str, step: Callable[[int, int], None]) -> None:
    """Build a target with all cores; an interrupted build is resumed.

    `step` gets the number of files that are done and of all files.
    """
    jobs = len(os.sched_getaffinity(0))
    _run([str(program("ninja")), "-C", str(project.build), "-j", str(jobs), target], project, step)


def _run(command: list[str], project: Project, step: Callable[[int, int], None]) -> None:
    log = project.build / LOG
    said: deque[str] = deque(maxlen=2000)
    with log.open("w", encoding="utf-8") as stream, _child(command, project) as child:
        assert child.stdout
        try:
            for line in child.stdout:
                stream.write(line)
                said.append(line.strip())
                if counted := _STEP.match(line):
                    step(int(counted[1]), int(counted[2]))
        except BaseException:
            child.terminate()
            raise

    if child.returncode != 0:
        fault = next(filter(_FAULT.search, said), said[-1] if said else "it said nothing")
        raise ToolError(
            f"{Path(command[0]).name} ended with exit code {child.returncode}: {fault}",
            hint=f"all that it said is in {log}",
        )


def _child(command: list[str], project: Project) -> "subprocess.Popen[str]":
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"LC_ALL": "C.UTF-8", "NINJA_STATUS": "[%f/%t] "}
    environment |= {f"ZIG_{kind}_CACHE_DIR": str(project.cache) for kind in ("GLOBAL", "LOCAL")}
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _script(installed: importlib.metadata.Distribution, name: str) -> Path | None:
    found = [
        file for file in installed.files or [] if file.name == name and file.parent.name == "bin"
    ]
    return Path(str(found[0].locate())) if found else None
