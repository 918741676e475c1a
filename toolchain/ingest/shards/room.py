"""The room of a look at data: folders of shards, what was decided of them, and what came out.

A kept room lies in the work folder: what is finished in it is not done again. It belongs to what
decides its contents, and another look clears it.
"""

import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
import weakref
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from toolchain.config import Frozen
from toolchain.files import write_whole
from toolchain.ingest.shards.folder import READ, Finished, finished
from toolchain.ingest.shards.seals import is_sealed
from toolchain.ingest.shards.views import Store
from toolchain.lock import HOLDER

FOLDER = "shards"
"""Name of a kept room in a work folder."""
VALUES = ".demitasse-values"
"""Folder beside a recipe with the values of shards that were replaced."""
_TEMPORARY = "demitasse-look-"
_UNLOCKED_S = 60.0
"""Seconds in which whoever makes a temporary room must have locked it."""
_locks: dict[Path, int | None] = {}
"""Handles of the temporary rooms of this process."""
_KEY = "key.json"
_NAMES = "names.json"


class Room(Frozen):
    """Paths of a room."""

    folder: Path
    values: Path
    """Folder for values, which a work folder must not hold."""
    shows: bool
    """Whether a dry run shows text of it: then it is temporary."""

    def shard(self, number: int) -> Path:
        """Return the folder of a shard."""
        return self.folder / f"{number:05d}"

    def values_of(self, number: int) -> Path:
        """Return the file of a shard's values."""
        return self.values / f"{number:05d}.jsonl"

    @property
    def states(self) -> Path:
        """What becomes of each phrasing."""
        return self.folder / "states"

    def open(self, key: str, names: list[str]) -> None:
        """Make the room that of a key; `names` are the files of its shards in order."""
        said = self.folder / _KEY
        if (
            not said.is_file()
            or said.read_bytes() != key.encode()
            or not (self.folder / _NAMES).is_file()
            or (self.folder / _NAMES).read_bytes() != json.dumps(names).encode()
        ):
            # The folder itself stays: it is what is locked.
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in (*self.folder.iterdir(), self.values):
                if old.is_dir():
                    shutil.rmtree(old)
                elif old.name != HOLDER:
                    old.unlink(missing_ok=True)
            write_whole(self.folder / _NAMES, json.dumps(names), lasting=not self.shows)
            write_whole(said, key, lasting=not self.shows)

    def names(self) -> list[str]:
        """Return the file of each shard."""
        names: list[str] = json.loads((self.folder / _NAMES).read_text(encoding="utf-8"))
        return names

    def finished(self, number: int, name: str) -> Finished | None:
        """Return a shard that was read to its end, with its values where it has any."""
        shard = finished(self.shard(number), name)
        if shard and shard.has_values and not self.values_of(number).is_file():
            return None
        return shard

    def is_whole(self, number: int, name: str) -> bool:
        """Say whether a shard was read to its end, and is kept as it was written."""
        shard = self.finished(number, name)
        values = self.values_of(number)
        return bool(
            shard and shard.is_whole() and (not values.is_file() or self.shows or is_sealed(values))
        )

    def has_account(self, number: int) -> bool:
        """Say whether a shard was read to its end, whatever became of its files since."""
        return (self.shard(number) / READ).is_file()

    def store(self) -> Store:
        """Return all shards, each of which is finished."""
        shards = [self.finished(number, name) for number, name in enumerate(self.names())]
        return Store([each for each in shards if each])


def temporary_room() -> Room:
    """Return a room that goes with its owner (`bind`); clear those of processes that were killed.

    It holds text as it was before redaction.
    """
    _clear_left()
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    _locks[folder] = _locked(folder)
    return Room(folder=folder / "room", values=folder / "values", shows=True)


def bind(room: Room, owner: object) -> None:
    """Remove a temporary room when its owner goes."""
    if room.shows:
        weakref.finalize(owner, _remove, room.folder.parent)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if handle := _locks.pop(folder, None):
        os.close(handle)


def _clear_left() -> None:
    """Remove the temporary rooms of this user that no process holds any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        with suppress(OSError):
            seen = folder.lstat()
            is_own = stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid()
            if is_own and time.time() - seen.st_mtime > _UNLOCKED_S and (handle := _locked(folder)):
                shutil.rmtree(folder, ignore_errors=True)
                os.close(handle)


def _locked(folder: Path) -> int | None:
    """Lock a folder until its handle is closed, or the process ends; None if another one does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def store_of(room: Room) -> Store:
    """Return the shards of a room, read once by a process that does several of its jobs."""
    return _stored(room, (room.folder / _KEY).read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _stored(room: Room, key: str) -> Store:
    return room.store()
