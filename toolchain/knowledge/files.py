"""Patterns of a recipe → the files that they name, and those that are not followed."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.config import closest
from toolchain.errors import ConfigError, all_of

_SHOWN = 2000
"""Names that are compared with a pattern that matches nothing."""
_SIGNS = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a pattern names: a file to read, or the reason why it is not read."""

    path: Path
    reason: str = ""


def find_files(patterns: Sequence[str], near: Path) -> dict[str, Found]:
    """Return the files of patterns, by their paths relative to `near`, sorted.

    Hidden files are not looked at, and links that lead out of the folder are not followed. Raises
    ConfigError for patterns that match nothing, with the closest name.
    """
    found: dict[str, Found] = {}
    errors: list[ConfigError] = []
    for pattern in patterns:
        files = {_name(each.path, near): each for each in _matches(pattern, near)}
        if not files:
            errors.append(_no_match(pattern, near))
        found |= files
    if errors:
        raise all_of(errors)
    return dict(sorted(found.items()))


def _name(path: Path, near: Path) -> str:
    name = Path(os.path.relpath(path, near)).as_posix()
    # A name in another encoding than UTF-8 cannot be written down.
    return os.fsencode(name).decode("utf-8", "replace")


def _matches(pattern: str, near: Path) -> Iterator[Found]:
    parts = Path(pattern).parts
    if not pattern or "\0" in pattern:
        return
    fixed = next((n for n, part in enumerate(parts) if any(s in part for s in _SIGNS)), len(parts))
    # A file may be called `a[1].md`.
    if os.path.lexists(near / pattern):
        fixed = len(parts)
    start = Path(os.path.normpath(near / Path(*parts[:fixed])))
    inside = start.is_relative_to(os.path.normpath(near))
    root = near if inside else start if start.is_dir() else start.parent

    if not os.path.lexists(start):
        return
    if fixed < len(parts) or start.is_dir():
        if start.is_symlink() and not _within(start, root):
            yield Found(path=start, reason=_OUTSIDE)
            return
        for each in _walk(start, root):
            names = each.path.relative_to(start).parts
            if fixed == len(parts) or _fits(names, parts[fixed:]):
                yield each
    else:
        yield _checked(start, root)


_OUTSIDE = "is a link out of the folder, which is not followed: copy it here, or name its own path"


def _walk(start: Path, root: Path) -> Iterator[Found]:
    """Yield the files of a folder and of those below it, without hidden ones."""
    broken: list[Found] = []

    def unreadable(error: OSError) -> None:
        reason = f"cannot be read: {(error.strerror or str(error)).lower()}"
        broken.append(Found(path=Path(error.filename), reason=reason))

    for folder, folders, files in os.walk(start, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            # A link within the folder leads to what is found anyway.
            path = Path(folder, name)
            if path.is_symlink() and not _within(path, root):
                yield Found(path=path, reason=_OUTSIDE)
        for name in sorted(files):
            if not name.startswith("."):
                yield _checked(Path(folder, name), root)
    yield from broken


def _checked(path: Path, root: Path) -> Found:
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return Found(path=path, reason="has a name that is not UTF-8: rename it")
    if path.is_symlink():
        if not path.exists():
            return Found(path=path, reason="is a link that leads nowhere")
        if not _within(path, root):
            return Found(path=path, reason=_OUTSIDE)
    return Found(path=path)


def _within(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, of which `**` is any number."""
    if not pattern:
        return not names
    if pattern[0] == "**":
        rest = pattern[1:]
        return any(_fits(names[n:], rest) for n in range(len(names) + 1)) or (
            not rest and bool(names)
        )
    return (
        bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])
    )


def _no_match(pattern: str, near: Path) -> ConfigError:
    shown = pattern.replace("\0", "\\0")[:200]
    if (near / shown).is_dir():
        return ConfigError(f"files: folder `{shown}` holds no file")
    names: list[str] = []
    if near.is_dir():
        for each in _walk(near, near):
            names += {_name(each.path, near), _name(each.path.parent, near)} - {".", *names[-50:]}
            if len(names) > _SHOWN:
                break
    hint = closest(shown, list(dict.fromkeys(names))) if names else f"relative to {near.resolve()}"
    hint = hint if len(hint) < 300 else f"patterns are relative to {near.resolve()}"
    return ConfigError(f"files: `{shown}` matches no file", hint=hint)
