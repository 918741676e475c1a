"""Huge pages: what is there is collapsed, what is not there does not come, and no system must."""

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.engine import pages
from device.engine.pages import collapse

SIZE = 16 << 20


def counted(entry: str) -> int:
    """Return the bytes that this process has of a kind."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if entry in line)


@pytest.fixture
def small_pages() -> Iterator[mmap.mmap]:
    """Memory that was never asked for in huge pages."""
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    yield memory
    memory.close()


def fill(memory: mmap.mmap) -> None:
    for at in range(0, SIZE, mmap.PAGESIZE):
        memory[at] = at // mmap.PAGESIZE % 251


def test_memory_that_is_there_is_put_into_huge_pages_and_keeps_what_it_holds(
    small_pages: mmap.mmap,
) -> None:
    fill(small_pages)
    before, had = counted("AnonHugePages:"), small_pages[:]
    done = collapse()
    if not done:
        pytest.skip("this system collapses nothing")
    assert counted("AnonHugePages:") - before >= SIZE // 2
    assert small_pages[:] == had


def test_the_process_does_not_grow(small_pages: mmap.mmap) -> None:
    small_pages[0] = small_pages[SIZE - 1] = 1  # all between is not there
    before = counted("Anonymous:")
    collapse()
    assert counted("Anonymous:") - before < SIZE // 4


@pytest.mark.parametrize("enabled", ["always madvise [never]", None])
def test_a_system_without_them_is_left_as_it_is(
    small_pages: mmap.mmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str | None
) -> None:
    if enabled:
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text(str(2 << 20))
    fill(small_pages)
    monkeypatch.setattr(pages, "_SETTINGS", tmp_path)
    before = counted("AnonHugePages:")
    assert collapse() == 0
    assert counted("AnonHugePages:") == before


def test_what_the_kernel_says_of_pages_may_be_withheld(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_PAGES", tmp_path / "pagemap")
    assert collapse() == 0
