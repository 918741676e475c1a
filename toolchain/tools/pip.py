"""pip: source archives and wheels from the index that pip is set up for; installs nothing.

The only module that calls pip. Its downloads may be for another processor and another Python than
this computer's.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolError

Step = Callable[[float, float], None]
_OLDEST_GLIBC = 17
"""Minor version of the oldest glibc of manylinux wheels for Arm (manylinux2014: glibc 2.17)."""
_HINT = (
    "pip must reach its package index this once, "
    "or find the archive in a folder that PIP_FIND_LINKS names"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A system where wheels are to run."""

    machine: str
    """`uname -m`."""
    glibc: str
    """Version of its glibc, such as `2.36`."""
    python: tuple[int, int]


def download_source(requirement: str, folder: Path, step: Step) -> Path:
    """Download the source archive of a pinned requirement; raise ToolError with pip's last error.

    pip asks the archive for its metadata and gets the tools for that as wheels: with `:all:` it
    would compile cmake first.
    """
    package, _, version = requirement.partition("==")
    _download(
        ["--no-binary", package, requirement], folder, step, f"the source of {package} {version}"
    )
    return next(iter(sorted(folder.glob("*.tar.gz"))))


def download_wheels(
    requirements: Sequence[str], place: Place, folder: Path, step: Step
) -> list[Path]:
    """Download the wheels of pinned requirements for a board; raise ToolError with pip's error."""
    version = ".".join(map(str, place.python))
    where = f"Python {version} on {place.machine} with glibc {place.glibc}"
    options = [
        "--only-binary",
        ":all:",
        "--implementation",
        "cp",
        "--python-version",
        version,
        *_platforms(place),
    ]
    _download([*options, *requirements], folder, step, f"wheels for {where}")
    return sorted(folder.glob("*.whl"))


def _platforms(place: Place) -> list[str]:
    """Return options for all platform tags that a system can load: pip takes each literally."""
    newest = int(place.glibc.split(".")[1])
    tags = [
        f"manylinux_2_{minor}_{place.machine}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)
    ]
    return [
        word for tag in (*tags, f"manylinux2014_{place.machine}") for word in ("--platform", tag)
    ]


def _download(words: Sequence[str], folder: Path, step: Step, what: str) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ToolError(
            "pip is not installed in this Python", hint=f"{sys.executable} -m ensurepip"
        )

    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar",
        "raw",
        "--dest",
        str(folder),
        *words,
    ]
    code, said = _run(command, step)
    if code != 0:
        fault = next(
            (line for line in reversed(said) if line.startswith("ERROR:")),
            said[-1] if said else "pip said nothing",
        )
        raise ToolError(f"{what} cannot be had: {fault.removeprefix('ERROR: ')}", hint=_HINT)


def _run(command: Sequence[str], step: Step) -> tuple[int, list[str]]:
    said = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        assert child.stdout
        try:
            for line in child.stdout:
                if counted := re.match(r"Progress (\d+) of (\d+)", line):
                    step(int(counted[1]), int(counted[2]))
                elif line.strip():
                    said.append(line.strip())
        except BaseException:
            child.terminate()
            raise

    return child.returncode, said
