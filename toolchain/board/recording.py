"""A disk whose every write is recorded, and what is left of it after a power cut at any of them.

QEMU's driver `blklogwrites` writes down what the board sends to its disk, in the format of Linux's dm-log-writes
(Documentation/admin-guide/device-mapper/log-writes.rst). The disk is then made again on this computer, up to any write: with all
that was written, as a disk without a cache has it, or without some of what came after the last flush, as an SD card may lose it.
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
    """On the disk, in bytes."""
    size: int
    at: int
    """Of its bytes in the log; 0 where it has none."""
    flushes: bool
    """Whether all writes before it are on the disk for good from here on."""
    lasting: bool
    """Whether it is itself on the disk for good (forced unit access)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A disk as it was when the recording began, and the log of what was written since."""

    base: Path
    log: Path

    def writes(self) -> list[Write]:
        """Return what was recorded until now; raise ArtifactError for a file that is no such log."""
        with self.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            head = log.read(_SUPER.size)
            magic, _, _, sector = _SUPER.unpack(head) if len(head) == _SUPER.size else (0, 0, 0, 0)
            if magic != _MAGIC or not sector:
                raise ArtifactError(f"{self.log.name}: not a log of writes")
            found, at = [], sector
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
        """Make the disk as it is if the power goes after `cut` writes; with a lottery half of what was not flushed is lost."""
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
