"""Memory of this computer."""

import ctypes
import os
from pathlib import Path

LARGE_BYTES = 4 << 20
"""Blocks that are given back at once when they are freed."""
_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""


def give_back_large() -> bool:
    """Let this process give large blocks back as soon as they are freed; return whether it can.

    glibc otherwise takes the largest block that was ever freed as its limit, up to 32 MB, and keeps
    blocks below it. A limit in MALLOC_MMAP_THRESHOLD_ stays.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_MMAP_THRESHOLD, LARGE_BYTES))


def available_bytes() -> int:
    """Return the memory that this computer has available; 0 where it does not say."""
    file = Path("/proc/meminfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError):
        return 0
