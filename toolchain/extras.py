"""Extras of the package: what each one installs, what of it is missing, and what installs it.

The lists come from the installed package's own metadata, which are those of pyproject.toml.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

from toolchain.errors import ToolError

PACKAGE = "demitasse"


def packages(extra: str) -> tuple[str, ...]:
    """Return the distributions that an extra asks for, in order."""
    marked = re.compile(rf"""([\w.-]+)[^;]*;.*\bextra == ['"]{extra}['"]""")
    found = map(marked.match, importlib.metadata.requires(PACKAGE) or ())
    return tuple(match.group(1) for match in found if match)


def missing(extra: str) -> list[str]:
    """Return the distributions of an extra that are not installed."""
    return [name for name in packages(extra) if not _is_installed(name)]


def remedy(extra: str) -> str:
    """Return the command that installs an extra into this installation."""
    if _is_of_pipx():
        return installs(" ".join(packages(extra)))
    return f"pip install '{PACKAGE}[{extra}]'"


def installs(name: str) -> str:
    """Return the command that installs a distribution into this installation."""
    return f"pipx inject {PACKAGE} {name}" if _is_of_pipx() else f"pip install {name}"


def require(extra: str, where: str) -> None:
    """Raise ToolError with all that is missing of an extra; `where` begins the message."""
    if names := missing(extra):
        verb = "are" if len(names) > 1 else "is"
        raise ToolError(f"{where}: {', '.join(names)} {verb} not installed", hint=remedy(extra))


def version_of(name: str, where: str) -> str:
    """Return the installed version of a distribution; raise ToolError if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        extra = next(
            (each for each in ("train", "qlora", "tflite", "onnx") if name in packages(each)), ""
        )
        hint = remedy(extra) if extra else installs(name)
        raise ToolError(f"{where}: {name} is not installed", hint=hint) from error


def _is_of_pipx() -> bool:
    """Say whether pipx made this environment: `pip install` does not reach it."""
    return (Path(sys.prefix) / "pipx_metadata.json").is_file()


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
