"""Text files as people write them: UTF-8, from any editor, with the line of what is not."""

from collections.abc import Iterator
from pathlib import Path

from toolchain.errors import ArtifactError


def text_of(name: str, path: Path) -> str:
    """Return a file's text with plain line ends."""
    return "\n".join(line for _, line in lines_of(name, path))


def lines_of(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield (`file:line`, text); only a line feed ends a line, as JSON strings may hold U+2028."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            yield f"{name}:{number}", line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ArtifactError(
                f"{name}:{number}: not valid UTF-8 at byte {error.start + 1} of the line"
            ) from error


def existing(names: tuple[str, ...], folder: Path, key: str) -> dict[str, Path]:
    """Return the files that a recipe's `key` names, relative to its folder; raise ArtifactError for one that is missing."""
    files = {name: folder / name for name in names}
    for name, path in files.items():
        if not path.is_file():
            raise ArtifactError(
                f"{name}: no such file", hint=f"`{key}` is relative to {folder.resolve()}"
            )
    return files
