"""The cores and the memory that engines may use on this computer. Standard library only."""

import os
from pathlib import Path

ONE_THREAD_BYTES = 16 << 20
"""Size of a model from which on several threads are faster than one."""
# Below it, threads mostly wait for each other, and ten times as long if another program runs
# (measured on two busy cores at 20 MiB: 428 tokens/s with one thread, 56 with two).


def default_threads(model_size: int) -> int:
    """Return the number of threads for a model of `model_size` bytes if nobody sets it."""
    return 1 if model_size < ONE_THREAD_BYTES else usable_cores()


def others_run(loadavg: Path = Path("/proc/loadavg")) -> bool:
    """Say whether any other thread of this computer runs or waits for a core right now."""
    try:
        running, _, _ = loadavg.read_text(encoding="ascii").split()[3].partition("/")
        return int(running) > 1
    except (OSError, ValueError, IndexError):
        return False


def memory_bytes(entry: str, meminfo: Path = Path("/proc/meminfo")) -> "int | None":
    """Return an entry of the kernel's memory table (`MemTotal`, `MemAvailable`) in bytes.

    None if there is none.
    """
    try:
        _, _, rest = meminfo.read_text(encoding="ascii").partition(f"{entry}:")
        return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many threads can run at once.

    That is the processors that this process may use, and no more than a container's quota (cgroup
    v2: `quota period` in µs). One thread too many halves the speed of decoding, since threads wait
    for each other.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores
