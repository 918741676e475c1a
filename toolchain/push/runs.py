"""Runs of bytes that two files have in common, wherever they stand in each.

As in rsync: blocks of the old file are known by a rolling hash, which is computed for every byte of
the new one (https://rsync.samba.org/tech_report/). A match is compared byte by byte, and then
grows in both directions.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Hashes = NDArray[np.uint64]

BLOCK = 96
"""Bytes that must be equal for a match. A row of an index with its vector has several of these."""
_BASE = 0x9E3779B97F4A7C15
"""An odd number, so that it can be divided by modulo 2**64."""
_TOGETHER = 8192
"""Blocks of the old file that are hashed at once."""
_NO_HASHES = np.zeros(0, np.uint64)
_NO_PLACES = np.zeros(0, np.int64)
_FIRST_LOOK = 1 << 10
"""Bytes in which the end of a match is looked for first."""


class Runs:
    """The old file, ready to be looked up."""

    def __init__(self, old: "Bytes") -> None:
        self._old = old

    def matches(self, new: "Bytes", start: int = 0) -> Iterator[tuple[int | None, int, int]]:
        """Yield all of `new` in order as (offset in the old file or None, first byte, last).

        `new` is a part of the new file, from `start` on. It needs fifty times the memory of what
        differs from the old file's bytes from `start` on, ends that are equal left out.
        """
        # Most parts differ in a few bytes or in none: hashing all of them took 0.4 s where one page
        # of a help desk's index was edited, and this takes 0.05.
        straight = self._old[start : start + len(new)]
        first = _worth(common(straight, new), len(new))
        last = len(new)
        if len(straight) == len(new):
            last -= _worth(_common_end(straight[first:], new[first:]), len(new))

        if first:
            yield start, 0, first
        for offset, begin, end in self._anywhere(new[first:last], start + first):
            yield offset, first + begin, first + end
        if last < len(new):
            yield start + last, last, len(new)

    def _anywhere(self, new: "Bytes", start: int) -> Iterator[tuple[int | None, int, int]]:
        """Yield all of `new` as `matches` does; runs may stand anywhere in the old file."""
        places, found = self._candidates(new)
        # How far the last match stands in the old file behind its place in the new part.
        aligned = start
        at = done = 0
        while (index := int(np.searchsorted(places, at))) < len(places):
            at = int(places[index])
            first = self._first(int(found[index]), at, aligned, new)
            if first is None:
                at += 1
                continue

            grown = _common_end(self._old[:first], new[done:at])
            begin, first = at - grown, first - grown
            stop = begin + common(self._old[first:], new[begin:])
            if begin > done:
                yield None, done, begin
            yield first, begin, stop
            aligned = first - begin
            at = done = stop

        if done < len(new):
            yield None, done, len(new)

    @cached_property
    def _known(self) -> "tuple[Hashes, NDArray[np.int64]]":
        """Hashes of the old file's blocks in ascending order, and where these begin."""
        blocks = self._old[: len(self._old) // BLOCK * BLOCK].reshape(-1, BLOCK)
        # By parts: the sums are of eight times the bytes.
        parts = [blocks[at : at + _TOGETHER] for at in range(0, len(blocks), _TOGETHER)]
        hashes = np.concatenate([_hashes_of(part) for part in parts] or [_NO_HASHES])
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order * BLOCK

    def _candidates(self, new: "Bytes") -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        """Return places in `new` where a known hash begins, and its first block in the order."""
        if len(new) < BLOCK:
            return _NO_PLACES, _NO_PLACES
        hashes, ordered = _hashes(new), self._known[0]
        index = np.searchsorted(ordered, hashes)
        known = index < len(ordered)
        known[known] = ordered[index[known]] == hashes[known]
        places = np.flatnonzero(known)
        return places, index[places]

    def _first(self, index: int, at: int, aligned: int, new: "Bytes") -> int | None:
        """Return where the block at `at` stands in the old file; None for a hash by chance."""
        block = new[at : at + BLOCK]
        # Behind a change of a few bytes most files go on as before.
        straight = at + aligned
        if straight >= 0 and np.array_equal(self._old[straight : straight + BLOCK], block):
            return straight
        first = int(self._known[1][index])
        return first if np.array_equal(self._old[first : first + BLOCK], block) else None


def _worth(equal: int, length: int) -> int:
    """Return how many equal bytes at an end of `length` bytes are worth a frame of their own."""
    return equal if equal >= min(BLOCK, length) else 0


def _hashes_of(blocks: "Bytes") -> "Hashes":
    """Return the hash of each block: uint8 [blocks, BLOCK] → uint64 [blocks]."""
    # A sum of byte × base**place, modulo 2**64. A byte of 0 counts too, or a run of zeros would
    # hash like a shorter one.
    counted = (blocks + np.uint64(1)) * _powers(_BASE, BLOCK)
    hashes: Hashes = counted.sum(axis=1, dtype=np.uint64)
    return hashes


def _hashes(raw: "Bytes") -> "Hashes":
    """Return the hash of the BLOCK bytes from each byte on, as long as there are so many."""
    if len(raw) < BLOCK:
        return _NO_HASHES
    counted = (raw + np.uint64(1)) * _powers(_BASE, len(raw))
    sums = np.concatenate([_NO_HASHES, [np.uint64(0)], np.cumsum(counted, dtype=np.uint64)])
    # The sum over a window begins with the power of its place: divided by it, modulo 2**64.
    windows: Hashes = sums[BLOCK:] - sums[:-BLOCK]
    return windows * _powers(pow(_BASE, -1, 1 << 64), len(windows))


def _powers(base: int, count: int) -> "Hashes":
    """Return base**0, base**1 and so on, modulo 2**64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def common(one: "Bytes", other: "Bytes") -> int:
    """Return the length of the common beginning."""
    length, look = min(len(one), len(other)), _FIRST_LOOK
    while True:
        differing = one[: min(look, length)] != other[: min(look, length)]
        if differing.any():
            return int(differing.argmax())
        if look >= length:
            return length
        look *= 8


def _common_end(one: "Bytes", other: "Bytes") -> int:
    """Return the length of the common end."""
    return common(one[::-1], other[::-1])
