"""Memory of this computer, with `free` as the referee."""

import subprocess
import sys

import pytest

from toolchain.memory import LARGE_BYTES, available_bytes, give_back_large


def test_it_is_what_free_says() -> None:
    try:
        said = subprocess.run(["free", "-b"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no program `free`")
    header, memory, *_ = said.splitlines()
    column = header.split().index("available") + 1
    # Other programs take and give back some between the two looks.
    assert available_bytes() == pytest.approx(int(memory.split()[column]), rel=0.5)


ALLOCATE = """
import ctypes, sys
from toolchain.memory import LARGE_BYTES, give_back_large
if sys.argv[1] == "given back" and not give_back_large():
    sys.exit(7)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def block(count):
    return libc.malloc(ctypes.c_size_t(count))
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
# The largest block that was freed is glibc's own limit.
libc.free(ctypes.c_void_p(block(30 << 20)))
large = [block(2 * LARGE_BYTES) for _ in range(3)]
for each in large:
    ctypes.memset(each, 1, 2 * LARGE_BYTES)
above = block(1 << 16)
before = resident()
for each in large:
    libc.free(ctypes.c_void_p(each))
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_blocks_are_given_back_when_they_are_freed() -> None:
    def freed(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", ALLOCATE, how], capture_output=True, text=True)
        if done.returncode == 7:
            pytest.skip("an allocator without mallopt")
        return int(done.stdout)

    assert freed("kept") < LARGE_BYTES
    assert freed("given back") > 5 * LARGE_BYTES


def test_a_limit_in_the_environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    assert not give_back_large()
