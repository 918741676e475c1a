"""Large files that were sent to boards, kept here by sha256: an update is compared with them.

They are hard links where the file system has them, and only the last few are kept. Without them a
push sends more, never something wrong: the board checks what it makes.
"""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import platformdirs

from toolchain.files import link_or_copy

NEWEST = 8
WORTH_BYTES = {".gguf": 1 << 20, ".db": 1 << 16}
"""End of the names of files that can be sent as a delta → smallest that is worth it, in bytes."""


def is_worth(name: str, size: int) -> bool:
    """Say whether a file of so many bytes may be sent as a delta."""
    return size >= WORTH_BYTES.get(Path(name).suffix, size + 1)


def keep(file: Path, sha256: str) -> None:
    """Keep a file and drop the oldest one; a full or read-only disk does not stop a push."""
    place = _folder() / sha256
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        # A copy that was cut off is of no use, and would stay for ever.
        if not place.exists() or place.stat().st_size != file.stat().st_size:
            _put(file, place)
        os.utime(place)
        for other in _by_age()[NEWEST:]:
            other.unlink()


def held(digests: Collection[str]) -> list[Path]:
    """Return the paths of those files that are kept, newest first; a file's name is its sha256."""
    return [file for file in _by_age() if file.name in digests]


def _by_age() -> list[Path]:
    folder = _folder()
    ages: dict[Path, int] = {}
    with suppress(OSError):
        for file in folder.iterdir():
            # Another push may drop a file while this one looks.
            with suppress(FileNotFoundError):
                if not file.name.startswith("."):
                    ages[file] = file.stat().st_mtime_ns
    return sorted(ages, key=lambda file: (-ages[file], file.name))


def _put(file: Path, place: Path) -> None:
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    link_or_copy(file, part)
    part.replace(place)


def _folder() -> Path:
    return Path(platformdirs.user_cache_dir("demitasse")) / "models"
