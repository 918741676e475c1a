"""Recipes that are shipped with demitasse: each has a name, and is run or copied by it.

A recipe's name is the stem of its file. A person's own file always comes first, so that a copy that
was edited is what runs.
"""

from dataclasses import dataclass
from pathlib import Path

from toolchain import recipe
from toolchain.config import closest
from toolchain.errors import ConfigError
from toolchain.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A shipped recipe in one line."""

    name: str
    title: str
    model: str
    """Where the weights come from, as the recipe says; `trained here` if a stage makes them."""
    target: str
    """Id of the board that it is built for when nobody names another."""
    file: str
    """Path to the recipe on this computer."""


def folder() -> Path:
    """Return the folder of the shipped recipes: in an installed wheel, or in the repository."""
    installed = Path(__file__).parent / "_shipped" / "recipes"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "recipes"


def names() -> list[str]:
    """Return the names of the shipped recipes, sorted."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def find(asked: Path) -> Path:
    """Return the file of a recipe that is named by its path or by a shipped recipe's name.

    The order is: this very file, a file of this name with `.toml` in the current folder, a shipped
    recipe. A path that is none of them is returned as it is. Raises ConfigError for a bare word
    that names no recipe.
    """
    name = str(asked)
    # Names have dots of their own (`qwen2.5-0.5b-pi-4b`): only this suffix makes a path of a word.
    if asked.is_file() or asked.suffix == ".toml" or asked.parent != Path():
        return asked

    own = Path(f"{name}.toml")
    if own.is_file():
        return own
    if asked.is_dir() and name not in names():
        return asked
    return _shipped(name)


def summaries() -> list[Summary]:
    """Return every shipped recipe in one line, sorted by name."""
    return [_summary(recipe.load(_shipped(name))) for name in names()]


def copy(name: str, into: Path) -> list[Path]:
    """Copy a shipped recipe and its data into a folder; return the files that were written.

    Raises ConfigError for a name that is not shipped. Raises it for a file that exists already,
    before anything is written.
    """
    source = _shipped(name)
    files = _files(recipe.load(source))
    for relative in files:
        if (into / relative).exists():
            raise ConfigError(
                f"{into / relative}: exists already",
                hint="name another folder: demitasse recipes copy NAME FOLDER",
            )

    written = []
    for relative in files:
        target = into / relative
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source.parent / relative).read_bytes())
        except OSError as error:
            raise ConfigError(f"{target}: cannot be written: {error.strerror or error}") from error
        written.append(target)
    return written


def _shipped(name: str) -> Path:
    known = names()
    if name not in known:
        raise ConfigError(
            f"{name}: no such file, and no shipped recipe of this name",
            hint=closest(name, known),
        )
    return folder() / f"{name}.toml"


def _files(shipped: Recipe) -> list[Path]:
    """Return the recipe's file, its data and the data's README, relative to its folder."""
    tools = [shipped.data.tools] if shipped.data.tools else []
    data = [Path(file) for file in (*shipped.data.files, *shipped.data.documents, *tools)]
    notes = sorted({file.parent / "README.md" for file in data if file.parent != Path()})
    present = [file for file in notes if (shipped.folder / file).is_file()]
    return [Path(f"{shipped.id}.toml"), *data, *present]


def _summary(shipped: Recipe) -> Summary:
    return Summary(
        name=shipped.id,
        title=shipped.title,
        model=shipped.model.base or "trained here",
        target=shipped.targets[0],
        file=str(folder() / f"{shipped.id}.toml"),
    )
