"""Sketches of texts: 32 bytes that rule out most pairs before anybody reads the two texts.

P. Li, A. C. König 2010, "b-bit minwise hashing": of each MinHash two bits are kept. Long texts of
one language share a band by accident, each with thousands of others of a million.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HASHES = 128
SKETCH_BYTES = HASHES // 4
_SHIFT = 20
"""Lowest bit of a hash that is kept: those at the top of the least one are zero."""
_DEVIATIONS = 6.0
"""Standard deviations that a near pair may fall below what is expected: one in a billion does."""


def sketches_of(least: "npt.NDArray[np.uint64]") -> "npt.NDArray[np.uint8]":
    """Return a sketch a row, of rows of the least values of `HASHES` hashes."""
    import numpy as np

    bits = ((least >> np.uint64(_SHIFT)) & np.uint64(3)).astype(np.uint8)
    packed = bits[:, 0::4]
    for at in range(1, 4):
        packed = packed | (bits[:, at::4] << np.uint8(2 * at))
    return packed


class Sieve:
    """Says of two sketches whether their texts may share as many pieces as are asked for."""

    def __init__(self, limit: float) -> None:
        import numpy as np

        # Two different hashes agree in their two bits by chance, each fourth time.
        share = limit + (1 - limit) / 4
        spread = math.sqrt(HASHES * share * (1 - share))
        self._most_different = HASHES - (HASHES * share - _DEVIATIONS * spread)
        values = np.arange(256)
        pairs = [(values >> (2 * at)) & 3 != 0 for at in range(4)]
        self._different: npt.NDArray[np.uint8] = np.sum(pairs, axis=0, dtype=np.uint8)
        """Byte of two sketches, one XOR the other → how many of its four hashes differ."""

    def may_be_near(
        self, first: "npt.NDArray[np.uint8]", second: "npt.NDArray[np.uint8]"
    ) -> "npt.NDArray[np.bool_]":
        """Return for each row of two arrays of sketches whether the two texts may be near."""
        differing = self._different[first ^ second].sum(axis=1)
        return differing <= self._most_different  # type: ignore[no-any-return]
