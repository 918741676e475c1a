"""Memory bandwidth of this board, and the check that no decoding speed exceeds it.

The C library's `memcmp` compares two equal blocks that no cache holds, with as many threads as
decode: the standard library's way to read memory at full speed. A model that fits into a cache is
not judged, since it does not wait for memory.
"""

import ctypes
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from device.engine.machine import memory_bytes

ROUNDS = 5
BLOCK_BYTES, SMALL_BLOCK_BYTES = 128 << 20, 32 << 20
"""Bytes of each of the two compared blocks; the small size is used if less than 1 GB is free."""
CACHED_SHARE = 2
"""Factor of the last cache's size below which a model may be read from the cache."""
TOLERANCE = 1.05
"""Tolerance of the comparison: the bandwidth is a measurement too."""


def read_gb_s(threads: int) -> float:
    """Return the best bandwidth of some rounds, in 10**9 bytes per second."""
    size = BLOCK_BYTES if (memory_bytes("MemAvailable") or 0) > 1 << 30 else SMALL_BLOCK_BYTES
    block = bytearray(os.urandom(4096)) * (size // 4096)
    blocks = [block, bytearray(block)]
    return max(2 * size / _compare_s(blocks, size, threads) for _ in range(ROUNDS)) / 1e9


def roofline(tok_s: float, bytes_per_token: int, gb_s: float) -> "dict[str, Any]":
    """Return a decoding speed as a share of the bandwidth, and whether it is possible."""
    if bytes_per_token < CACHED_SHARE * last_cache_bytes():
        return {
            "bandwidth_gb_s": round(gb_s, 2),
            "roofline_share": None,
            "impossible": False,
            "cached": True,
        }

    share = tok_s * bytes_per_token / (gb_s * 1e9)
    return {
        "bandwidth_gb_s": round(gb_s, 2),
        "roofline_share": round(share, 3),
        "impossible": share > TOLERANCE,
        "cached": False,
    }


def last_cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Return the size of the largest cache in bytes; 0 if the kernel does not say."""
    sizes = [_size(file.read_text(encoding="ascii")) for file in folder.glob("index*/size")]
    return max(sizes, default=0)


def _size(text: str) -> int:
    found = re.match(r"(\d+)([KM]?)", text)
    if not found:
        return 0

    shift = {"": 0, "K": 10, "M": 20}[found.group(2)]
    return int(found.group(1)) << shift


def _compare_s(blocks: "list[bytearray]", size: int, threads: int) -> float:
    """Return the seconds in which threads read both blocks, each its own part."""
    # ctypes releases the interpreter lock meanwhile.
    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    first, second = ((ctypes.c_char * size).from_buffer(block) for block in blocks)
    part = size // threads
    starts = [number * part for number in range(threads)]
    ends = threading.Barrier(threads + 1)

    def read(start: int) -> None:
        ends.wait()
        compare(ctypes.addressof(first) + start, ctypes.addressof(second) + start, part)
        ends.wait()

    workers = [threading.Thread(target=read, args=(start,), daemon=True) for start in starts]

    for worker in workers:
        worker.start()

    ends.wait()
    began = time.perf_counter()
    ends.wait()
    took = time.perf_counter() - began

    for worker in workers:
        worker.join()

    return took
