"""sha256 of files. That of a large file is remembered, so that a run does not read it again.

A work folder holds gigabytes that do not change from one edit to the next. The rule: what leaves
this computer, and what a signature or a check is about, is read `anew`.
"""

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from toolchain.files import write_whole

LARGE_BYTES = 8 << 20
"""Smallest size of a file whose digest is remembered: 6 ms of reading."""
SETTLED_S = 10.0
"""Seconds that a file must have been left alone before its digest is remembered."""
# Times of files have a grain: 4 ms on ext4 and 2 s on FAT. A change within the same grain has the
# same times.
REMEMBERED_S = 24 * 3600.0
"""Seconds after which a file is read again: what rots on a disk changes no time of a file."""
MOST = 200
"""Largest number of files that are remembered."""
_MOST_BYTES = 1 << 20


class _Seen(BaseModel):
    """What a file's bytes were."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    at: float
    """Seconds since 1970 when they were read."""


_SEEN = TypeAdapter(dict[str, _Seen])


def file_digest(path: Path, *, anew: bool = False) -> str:
    """Return the sha256 of a file's bytes; `anew` reads them whatever is remembered."""
    with path.open("rb") as stream:
        before = os.fstat(stream.fileno())
        is_large = before.st_size >= LARGE_BYTES
        if is_large and not anew and (known := _recall(_key(before))):
            return known
        began = time.time()
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        # Whoever writes while it is read changes its times.
        unchanged = _key(os.fstat(stream.fileno())) == _key(before)

    changed_s = max(before.st_mtime, before.st_ctime)
    if is_large and unchanged and began - changed_s >= SETTLED_S:
        _remember(_key(before), sha256, began)
    return sha256


def _key(seen: os.stat_result) -> str:
    """Return what no change of a file leaves as it was; ctime cannot be set."""
    numbers = (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return " ".join(map(str, numbers))


def _recall(key: str) -> str:
    """Return the sha256 of a file that was read lately; empty if none was."""
    seen = _read().get(key)
    return seen.sha256 if seen and 0.0 <= time.time() - seen.at <= REMEMBERED_S else ""


def _remember(key: str, sha256: str, at: float) -> None:
    """Remember a file; a full or read-only disk does not stop a run."""
    newest = sorted(_read().items(), key=lambda each: -each[1].at)[: MOST - 1]
    seen = {**dict(newest), key: _Seen(sha256=sha256, at=at)}
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(), _SEEN.dump_json(seen).decode() + "\n", lasting=False)


def _read() -> dict[str, _Seen]:
    """Return the files that are remembered; none if what was written of them has rotted."""
    try:
        with _file().open("rb") as stream:
            return _SEEN.validate_json(stream.read(_MOST_BYTES))
    except (OSError, ValidationError):
        return {}


def _file() -> Path:
    return Path(platformdirs.user_cache_dir("demitasse")) / "digests.json"
