"""Memory of this computer."""

import os
from pathlib import Path


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
