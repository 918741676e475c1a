"""Texts that are nearly the same: MinHash finds pairs, the exact share of pieces decides.

A. Broder 1997, "On the resemblance and containment of documents". The bands of the signatures lie
in a temporary file and are sorted one after the other: an index in memory takes 3 KB a text.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PIECE = 5
"""Characters of a piece (shingle)."""
BANDS, ROWS = 32, 4
# At a share of 0.6 a pair is found with probability 1 - (1 - 0.6⁴)³² = 0.988, at 0.7 with 0.9998.
"""Bands of a signature, and hashes in a band."""
_BLOCK = 4096
"""Signatures that are written at once."""
_NEIGHBOURS = 4
"""Texts of a group with the same band that a text is compared with."""
_COMPARED = 8
"""Texts that a text is compared with, at most."""
_MASK = (1 << 64) - 1


def pieces_of(text: str) -> frozenset[str]:
    """Return the pieces of a text, without case and runs of spaces."""
    plain = _plain(text)
    return frozenset(plain[at : at + PIECE] for at in range(max(1, len(plain) - PIECE + 1)))


def share(one: str, other: str) -> float:
    """Return the share of common pieces (Jaccard) of two texts."""
    first, second = pieces_of(one), pieces_of(other)
    return len(first & second) / len(first | second)


def near_pairs(
    texts: Iterable[str], text_at: Callable[[int], str], limit: float
) -> Iterator[tuple[int, int]]:
    """Yield pairs (earlier, later) of the numbers of texts whose share is at least `limit`.

    A text is compared with eight earlier ones at most, so that a million texts made by one template
    end in minutes.
    """
    import numpy as np

    with tempfile.TemporaryFile() as file:
        count = 0
        for block in _signed(texts):
            file.write(block.tobytes())
            count += len(block)

        partners = np.zeros((count, _COMPARED), np.uint32)
        compared = bytearray(count)
        for band in range(BANDS):
            for earlier, later in _candidates(_column(file, count, band)):
                done = compared[later]
                if done == _COMPARED or earlier in partners[later, :done]:
                    continue
                partners[later, done] = earlier
                compared[later] += 1
                if share(text_at(earlier), text_at(later)) >= limit:
                    yield earlier, later


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _signed(texts: Iterable[str]) -> Iterator["npt.NDArray[np.uint32]"]:
    """Yield blocks of bands: a row a text, a number a band."""
    import numpy as np

    draw = np.random.default_rng(0)  # the same pairs in each run
    factors = draw.integers(1, _MASK, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
    offsets = draw.integers(0, _MASK, BANDS * ROWS, dtype=np.uint64)
    block = np.empty((_BLOCK, BANDS), np.uint32)
    filled = 0
    for text in texts:
        hashes = _hashes(_plain(text))
        least = (hashes[:, None] * factors + offsets).min(axis=0) >> np.uint64(16)
        block[filled] = _joined(least.reshape(BANDS, ROWS))
        filled += 1
        if filled == _BLOCK:
            yield block
            filled = 0
    yield block[:filled]


def _hashes(plain: str) -> "npt.NDArray[np.uint64]":
    """Return a hash of each piece of a text."""
    import numpy as np

    signs = np.frombuffer(plain.encode("utf-32-le"), np.uint32).astype(np.uint64)
    if len(signs) < PIECE:
        signs = np.concatenate([signs, np.zeros(PIECE - len(signs), np.uint64)])
    hashes = np.zeros(len(signs) - PIECE + 1, np.uint64)
    for at in range(PIECE):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + signs[at : at + len(hashes)]
    # The finalizer of MurmurHash3: without it neighbours in Unicode stay neighbours.
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def _joined(bands: "npt.NDArray[np.uint64]") -> "npt.NDArray[np.uint32]":
    """Return one number for the hashes of each band; accidents are ruled out by the share."""
    import numpy as np

    joined = np.zeros(len(bands), np.uint64)
    for row in range(ROWS):
        joined = joined * np.uint64(0xC4CEB9FE1A85EC53) + bands[:, row]
    return (joined >> np.uint64(32)).astype(np.uint32)


def _column(file: IO[bytes], count: int, band: int) -> "npt.NDArray[np.uint32]":
    """Return one band of all texts."""
    import numpy as np

    column = np.empty(count, np.uint32)
    file.seek(0)
    for first in range(0, count, _BLOCK):
        rows = min(_BLOCK, count - first)
        block = np.frombuffer(file.read(rows * BANDS * 4), np.uint32).reshape(rows, BANDS)
        column[first : first + rows] = block[:, band]
    return column


def _candidates(column: "npt.NDArray[np.uint32]") -> Iterator[tuple[int, int]]:
    """Yield pairs of texts whose band is the same: each with a few before it in its group."""
    import numpy as np

    order = np.argsort(column, kind="stable")  # of equal ones the earlier text comes first
    sorted_column = column[order]
    same = np.flatnonzero(sorted_column[1:] == sorted_column[:-1]) + 1
    start = -1
    before = -2
    for at in same.tolist():
        if at != before + 1:
            start = at - 1
        before = at
        # The first of the group, so that chains join, and its nearest neighbours.
        for other in {start, *range(max(start, at - _NEIGHBOURS + 1), at)}:
            yield int(order[other]), int(order[at])
