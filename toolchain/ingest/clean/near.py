"""Texts that are nearly the same: MinHash finds pairs, the exact share of pieces decides.

A. Broder 1997, "On the resemblance and containment of documents". The bands of the signatures
are sorted one after the other: an index of all of them in memory takes 3 KB a text.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from toolchain.ingest.clean.sketch import HASHES, Sieve, sketches_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Bands: TypeAlias = "npt.NDArray[np.uint32]"
"""One band of all texts."""
Chosen: TypeAlias = "npt.NDArray[np.bool_]"
"""For each text whether it is compared."""
Signed: TypeAlias = "tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]"
"""Signatures of some texts, a number a band, and their sketches: a row a text."""
Sketches: TypeAlias = Callable[["npt.NDArray[np.uint32]"], "npt.NDArray[np.uint8]"]
"""Returns the sketches of texts by their numbers, which ascend."""

PIECE = 5
"""Characters of a piece (shingle)."""
BANDS, ROWS = 32, HASHES // 32
# At a share of 0.6 a pair is found with probability 1 - (1 - 0.6⁴)³² = 0.988, at 0.7 with 0.9998.
"""Bands of a signature, and hashes in a band."""
BLOCK = 1024
"""Signatures that are computed at once."""
_PIECES = 4096
"""Pieces of a text that are hashed at once: the 128 hashes of one take a kilobyte."""
_PART = 1 << 20
"""Texts whose bands are sorted at once."""
_PAIRED = 1 << 16
"""Texts of a band that are paired at once."""
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
    return share_of(pieces_of(one), pieces_of(other))


def share_of(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the share of common pieces of two texts by their pieces."""
    common = len(first & second)
    return common / (len(first) + len(second) - common)


def near_pairs(
    texts: Iterable[str], text_at: Callable[[int], str], limit: float
) -> Iterator[tuple[int, int]]:
    """Yield pairs (earlier, later) of the numbers of texts whose share is at least `limit`."""
    import numpy as np

    signed, sketches = map(np.concatenate, zip(*Signer().signed(texts), strict=True))
    bands = [lambda band=band: signed[:, band] for band in range(BANDS)]
    chosen = np.ones(len(signed), bool)
    for block in candidates(bands, chosen, sketches.__getitem__, Sieve(limit)):
        for earlier, later in block.tolist():
            if share(text_at(earlier), text_at(later)) >= limit:
                yield earlier, later


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


class Signer:
    """Computes the signature of a text, a number a band, and its sketch."""

    def __init__(self) -> None:
        import numpy as np

        draw = np.random.default_rng(0)  # the same pairs in each run
        factors = draw.integers(1, _MASK, HASHES, dtype=np.uint64) | np.uint64(1)
        offsets = draw.integers(0, _MASK, HASHES, dtype=np.uint64)
        # A row a hash: the least of neighbours in memory is found four times as fast.
        self._factors, self._offsets = factors[:, None].copy(), offsets[:, None].copy()

    def signed(self, texts: Iterable[str]) -> Iterator[Signed]:
        """Yield the signatures and sketches of texts in blocks."""
        import numpy as np

        block = np.empty((BLOCK, HASHES), np.uint64)
        filled = 0
        for text in texts:
            block[filled] = self._least(text)
            filled += 1
            if filled == BLOCK:
                yield _joined(block), sketches_of(block)
                filled = 0
        yield _joined(block[:filled]), sketches_of(block[:filled])

    def _least(self, text: str) -> "npt.NDArray[np.uint64]":
        """Return the least of each hash over the pieces of a text."""
        import numpy as np

        hashes = _hashes(_plain(text))
        least = (self._factors * hashes[:_PIECES] + self._offsets).min(axis=1)
        for first in range(_PIECES, len(hashes), _PIECES):
            more = self._factors * hashes[first : first + _PIECES] + self._offsets
            np.minimum(least, more.min(axis=1), out=least)
        return least  # type: ignore[no-any-return]


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


def _joined(least: "npt.NDArray[np.uint64]") -> "npt.NDArray[np.uint32]":
    """Return one number for the hashes of each band; accidents are ruled out by the share."""
    import numpy as np

    bands = (least >> np.uint64(16)).reshape(len(least), BANDS, ROWS)
    joined = np.zeros(bands.shape[:2], np.uint64)
    for row in range(ROWS):
        joined = joined * np.uint64(0xC4CEB9FE1A85EC53) + bands[:, :, row]
    return (joined >> np.uint64(32)).astype(np.uint32)


Candidates: TypeAlias = "npt.NDArray[np.uint32]"
"""Rows of (earlier, later)."""


def candidates(
    bands: Iterable[Callable[[], Bands]], chosen: Chosen, sketches: Sketches, sieve: Sieve
) -> Iterator[Candidates]:
    """Yield pairs of `chosen` texts that share a band and may be near, in blocks.

    Each of `bands` returns one band of all texts. A text is compared with eight earlier ones at
    most, so that a million texts made by one template end in minutes. The order is that of bands,
    of their values and of the texts.
    """
    import numpy as np

    compared = _Compared(len(chosen))
    parts = 1 << (len(chosen) // _PART).bit_length()
    for band in bands:
        values = band()
        for part in range(parts):
            first, last = (part << 32) // parts, ((part + 1) << 32) // parts - 1
            mine = (values >= np.uint32(first)) & (values <= np.uint32(last)) & chosen
            texts = np.flatnonzero(mine).astype(np.uint64)
            # The value above the number: one sort puts equal values together, earlier texts first.
            keys = (values[mine].astype(np.uint64) << np.uint64(32)) | texts
            keys.sort()
            yield from _of_band(_Band(keys, sketches, sieve), compared)


class _Band:
    """Texts in the order of their values of one band; those with a like have their sketches."""

    def __init__(self, keys: "npt.NDArray[np.uint64]", sketches: Sketches, sieve: Sieve) -> None:
        import numpy as np

        values = (keys >> np.uint64(32)).astype(np.uint32)
        self.texts = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        self.is_same = np.zeros(len(keys), bool)
        """For each whether its value is that of the one before."""
        np.equal(values[1:], values[:-1], out=self.is_same[1:])

        has_like = self.is_same.copy()
        has_like[:-1] |= self.is_same[1:]
        members = np.flatnonzero(has_like)
        members = members[np.argsort(self.texts[members])]
        self._row_of = np.zeros(len(keys), np.uint32)
        self._row_of[members] = np.arange(len(members))
        self._sketches = sketches(self.texts[members])
        self._sieve = sieve

    def may_be_near(
        self, first: "npt.NDArray[np.int64]", second: "npt.NDArray[np.int64]"
    ) -> "npt.NDArray[np.bool_]":
        """Return which pairs may be near, by the places of their texts in this order."""
        rows = self._row_of[first], self._row_of[second]
        return self._sieve.may_be_near(*(self._sketches[each] for each in rows))


def _of_band(band: _Band, compared: "_Compared") -> Iterator[Candidates]:
    """Yield the candidates of a band: each text with a few before it in its group."""
    import numpy as np

    # The first of the group, so that chains join, and its nearest neighbours.
    begins = np.where(band.is_same, 0, np.arange(len(band.is_same)))
    starts = np.maximum.accumulate(begins)
    those = np.flatnonzero(band.is_same)
    for first in range(0, len(those), _PAIRED):
        at = those[first : first + _PAIRED]
        start = starts[at]
        others = np.stack([start, *(at - back for back in range(_NEIGHBOURS - 1, 0, -1))], axis=1)
        is_new = others > start[:, None]
        is_new[:, 0] = True
        rows, columns = np.nonzero(is_new)
        is_new[rows, columns] = band.may_be_near(others[rows, columns], at[rows])
        for column in range(_NEIGHBOURS):
            rows = np.flatnonzero(is_new[:, column])
            pairs = band.texts[at[rows]], band.texts[others[rows, column]]
            is_new[rows, column] = compared.take(*pairs)
        rows, columns = np.nonzero(is_new)
        yield np.stack([band.texts[others[rows, columns]], band.texts[at[rows]]], axis=1)


class _Compared:
    """Texts that each text was compared with; room is made for those that are compared at all."""

    def __init__(self, count: int) -> None:
        import numpy as np

        self._rows = np.zeros(count, np.uint32)
        """Number of a text's row, from 1."""
        self._partners = np.zeros((1024, _COMPARED), np.uint32)
        self._done = np.zeros(1024, np.uint8)
        self._used = 1

    def take(
        self, later: "npt.NDArray[np.uint32]", earlier: "npt.NDArray[np.uint32]"
    ) -> "npt.NDArray[np.bool_]":
        """Note pairs, no two of one later text; return which are new and within the limit."""
        import numpy as np

        self._make_room(later)
        rows = self._rows[later]
        done = self._done[rows]
        known = (self._partners[rows] == earlier[:, None]) & (
            np.arange(_COMPARED)[None, :] < done[:, None]
        )
        is_new = ~known.any(axis=1) & (done < _COMPARED)
        rows, done = rows[is_new], done[is_new]
        self._partners[rows, done] = earlier[is_new]
        self._done[rows] = done + 1
        return is_new  # type: ignore[no-any-return]

    def _make_room(self, later: "npt.NDArray[np.uint32]") -> None:
        import numpy as np

        fresh = later[self._rows[later] == 0]
        used = self._used + len(fresh)
        if used > len(self._done):
            more = max(used, len(self._done) * 3 // 2) - len(self._done)
            self._partners = np.pad(self._partners, ((0, more), (0, 0)))
            self._done = np.pad(self._done, (0, more))
        self._rows[fresh] = np.arange(self._used, used)
        self._used = used
