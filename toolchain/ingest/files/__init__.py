"""The files that people bring: a row an ending. Each gives rows or documents, one after the other.

Files are streamed, so that a file may be larger than the memory. A bad line is given as an error
with its place and the next line is read; what makes a whole file unreadable is raised.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from toolchain.errors import ArtifactError
from toolchain.ingest.files.json_file import has_lines, has_wrapped_lines, json_rows, lines_or_array
from toolchain.ingest.files.parquet import parquet_rows
from toolchain.ingest.files.source import Cut, Raw, Source
from toolchain.ingest.files.table import comma_rows, tab_rows
from toolchain.ingest.files.text import document, paragraphs
from toolchain.texts import HALF_CHARACTERS

__all__ = ["FILES", "Raw", "Source", "expanded", "is_of_lines", "is_read", "others_in", "read_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """A kind of file."""

    name: str
    read: Callable[[Source], Iterator[Raw]]
    may_be_packed: bool = True
    has_lines: Callable[[Source], bool] = lambda source: False
    """Says whether a file holds a value a line, so that it may be read in parts."""


_LINES = FileKind(name="JSON lines", read=lines_or_array, has_lines=has_lines)
_PAGE = FileKind(name="Markdown", read=document)
_TEXT = FileKind(name="text", read=paragraphs)
FILES: Mapping[str, FileKind] = MappingProxyType(
    {
        ".jsonl": _LINES,
        ".ndjson": _LINES,
        ".json": FileKind(name="JSON", read=json_rows, has_lines=has_wrapped_lines),
        ".csv": FileKind(name="CSV", read=comma_rows),
        ".tsv": FileKind(name="TSV", read=tab_rows),
        ".parquet": FileKind(name="Parquet", read=parquet_rows, may_be_packed=False),
        ".md": _PAGE,
        ".markdown": _PAGE,
        ".txt": _TEXT,
        ".text": _TEXT,
    }
)
"""Ending → kind of file."""
_PACKED, _PARQUET = ".gz", ".parquet"
_OTHER_ENDINGS = {
    ".zst": "unpack it first: unzstd {0}",
    ".bz2": "unpack it first: bunzip2 {0}",
    ".xz": "unpack it first: unxz {0}",
    ".zip": "unpack it first: unzip {0}",
    ".xlsx": "save it as CSV in UTF-8",
    ".xls": "save it as CSV in UTF-8",
}
"""Endings of files that people bring, and how to make one of them that is read."""


def is_of_lines(name: str, path: Path) -> bool:
    """Say whether a file may be read in parts that are cut at lines."""
    ending, is_packed = _ending(name)
    kind = FILES.get(ending)
    if kind is None or is_packed:
        return False
    source = Source(name=name, path=path, is_packed=is_packed)
    # Lines of UTF-16 do not end at a byte.
    return not source.is_wide and kind.has_lines(source)


def read_rows(name: str, path: Path, cut: Cut | None = None) -> tuple[str, Iterator[Raw]]:
    """Return the kind of a file in words and what it, or a part of it, holds.

    Raise ArtifactError for other kinds.
    """
    ending, is_packed = _ending(name)
    kind = FILES.get(ending)
    if kind is None or (is_packed and not kind.may_be_packed):
        hint = _OTHER_ENDINGS.get(ending, f"known: {', '.join(FILES)}, each but Parquet as .gz too")
        raise ArtifactError(f"{name}: files of this kind are not read", hint=hint.format(name))
    source = Source(name=name, path=path, is_packed=is_packed, cut=cut)
    encoding = " in UTF-16" if ending != _PARQUET and source.is_wide else ""
    return kind.name + encoding, kind.read(source)


def expanded(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the names with each folder replaced by the files in it that are read, in order."""
    found: list[str] = []
    for name in names:
        try:
            is_folder = (folder / name).is_dir()
        except OSError:  # a name that no file can have; it is refused where it is opened
            is_folder = False
        found += _files_in(name or ".", folder) if is_folder else [name]
    return tuple(dict.fromkeys(found))


def others_in(names: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return the files in the folders among some names that are of no kind that is read."""
    folders = (name or "." for name in names if (folder / name).is_dir())
    inside = (each for name in folders for each in _names_in(name, folder))
    return tuple(each for each in inside if not is_read(each))


def is_read(name: str) -> bool:
    """Say by a file's name whether it is of a kind that is read."""
    return _ending(name)[0] in FILES


def _names_in(name: str, folder: Path) -> list[str]:
    root = folder / name
    inside = sorted(path.relative_to(root) for path in _walk(name, root))
    return [f"{name.rstrip('/')}/{path.as_posix()}" for path in inside]


def _files_in(name: str, folder: Path) -> list[str]:
    names = _names_in(name, folder)
    read = [each for each in names if is_read(each)]
    if not read:
        raise ArtifactError(
            f"{name}: a folder, not a file",
            hint=f"a folder is read file by file, but none in it ends with {', '.join(FILES)}",
        )
    return read


def _walk(name: str, root: Path) -> Iterator[Path]:
    """Yield the files in a folder that are not hidden.

    Raise ArtifactError for what would be left out without a word.
    """

    def unreadable(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        raise ArtifactError(f"{error.filename}: cannot be read: {reason}") from error

    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for each in folders:
            if Path(folder, each).is_symlink():
                raise ArtifactError(
                    f"{name}: `{_shown(each)}` is a link to a folder, which is not followed",
                    hint="name the folder itself in `files`, or copy it here",
                )
        for each in files:
            if each.startswith("."):
                continue
            if HALF_CHARACTERS.search(each):
                raise ArtifactError(
                    f"{name}: `{_shown(each)}` is a name that is not UTF-8", hint="rename it"
                )
            if Path(folder, each).is_file():
                yield Path(folder, each)


def _shown(name: str) -> str:
    """Return a file's name as it can be printed."""
    return os.fsencode(name).decode("utf-8", "replace")


def _ending(name: str) -> tuple[str, bool]:
    """Return the ending of a file's name in small letters, and whether it is packed."""
    path = Path(name)
    if path.suffix.lower() != _PACKED:
        return path.suffix.lower(), False
    return Path(path.stem).suffix.lower() or _PACKED, True
