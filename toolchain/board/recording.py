"""A disk whose every write is recorded, and its content after a power cut at any of them.

QEMU's driver `blklogwrites` logs what the board sends to its disk, in the format of Linux's
dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst). This module rebuilds the
disk up to any write: with every write, as on a disk without a cache, or without some of those after
the last flush, as an SD card may lose them.
"""

import os
import random
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ArtifactError

_MAGIC = 0x6A736677736872
_SUPER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4
_LOST = 0.5
"""Share of the unflushed writes that a cache loses."""


@dataclass(frozen=True, slots=True)
class Write:
    """One entry of the log."""

    offset: int
    """Place on the disk, in bytes."""
    size: int
    at: int
    """Place of its bytes in the log; 0 if it has none."""
    flushes: bool
    """Whether it makes all writes before it durable."""
    lasting: bool
    """Whether it is durable itself (forced unit access)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A disk at the begin of the recording, and the log of the writes since."""

    base: Path
    log: Path

    def writes(self) -> list[Write]:
        """Return the writes until now; raise ArtifactError for a file that is no such log."""
        with self.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            head = log.read(_SUPER.size)
            magic, _, _, sector = _SUPER.unpack(head) if len(head) == _SUPER.size else (0, 0, 0, 0)
            if magic != _MAGIC or not sector:
                raise ArtifactError(f"{self.log.name}: not a log of writes")
            found = []
            at = sector
            while at + sector <= size:
                log.seek(at)
                first, count, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
                at += sector
                has_bytes = bool(count) and not flags & _DISCARD
                if not (first or count or flags) or (has_bytes and at + count * sector > size):
                    break
                found.append(
                    Write(
                        first * sector,
                        count * sector,
                        at if has_bytes else 0,
                        bool(flags & _FLUSH),
                        bool(flags & _FUA),
                    )
                )
                at += count * sector if has_bytes else 0
            return found

    def disk_after(self, cut: int, image: Path, lottery: random.Random | None = None) -> None:
        """Write the disk to `image` as it is if the power goes after `cut` writes.

        With a `lottery`, half of the writes that were not flushed are lost.
        """
        writes = self.writes()[:cut]
        flushed = max((number for number, write in enumerate(writes) if write.flushes), default=-1)
        shutil.copyfile(self.base, image)

        with self.log.open("rb") as log, image.open("r+b") as disk:
            for number, write in enumerate(writes):
                lost = (
                    lottery and number > flushed and not write.lasting and lottery.random() < _LOST
                )
                if write.at and not lost:
                    log.seek(write.at)
                    disk.seek(write.offset)
                    disk.write(log.read(write.size))
