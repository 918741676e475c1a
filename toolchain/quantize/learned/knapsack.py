"""Multiple-choice knapsack: one choice for each thing, at the least damage for every total size.

Things are merged one by one; points that a smaller one beats are dropped. The result is exact up to
MAX_POINTS points. A longer front is thinned: that may cost a little but breaks no bound, as every
point is a real choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_POINTS = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Points that no smaller point beats, the smallest first."""

    sizes: "NDArray[np.int64]"
    damages: "NDArray[np.float64]"
    picks: "NDArray[np.int8]"
    """Index of the choice taken, [points, things]."""

    def within(self, limit: int) -> int:
        """Return the best point of at most `limit`; raise ValueError if there is none."""
        if limit < self.sizes[0]:
            raise ValueError(f"nothing is as small as {limit}")
        return int(self.sizes.searchsorted(limit, side="right")) - 1


def solve(
    sizes: Sequence[Sequence[int]], damages: Sequence[Sequence[float]], max_points: int = MAX_POINTS
) -> Front:
    """Return the front of all choices; `sizes` and `damages` hold each thing's choices."""
    import numpy as np

    front = Front(sizes=np.zeros(1, np.int64), damages=np.zeros(1), picks=np.zeros((1, 0), np.int8))
    for size, damage in zip(sizes, damages, strict=True):
        front = _thinned(
            _merged(front, np.array(size, np.int64), np.array(damage, np.float64)), max_points
        )
    return front


def _merged(front: Front, size: "NDArray[np.int64]", damage: "NDArray[np.float64]") -> Front:
    import numpy as np

    sizes = (front.sizes[:, None] + size).ravel()
    damages = (front.damages[:, None] + damage).ravel()
    order = np.lexsort((damages, sizes))
    least = np.minimum.accumulate(damages[order])
    points = order[np.concatenate([[True], least[1:] < least[:-1]])]
    parent, pick = np.divmod(points, len(size))
    picks = np.concatenate([front.picks[parent], pick[:, None].astype(np.int8)], axis=1)
    return Front(sizes=sizes[points], damages=damages[points], picks=picks)


def _thinned(front: Front, max_points: int) -> Front:
    import numpy as np

    if len(front.sizes) <= max_points:
        return front
    points = np.unique(np.linspace(0, len(front.sizes) - 1, max_points).round().astype(np.int64))
    return Front(
        sizes=front.sizes[points],
        damages=front.damages[points],
        picks=front.picks[points],
    )
