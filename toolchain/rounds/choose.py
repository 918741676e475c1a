"""Which questions are worth an answer: popularity × novelty, as greedy facility location.

A set of answered questions is worth how near the nearest of it is to each question of the pool,
summed over the pool: so a question counts as often as it was asked (popularity), and not again
where its like is answered (novelty). Greedy choice reaches 63 % of the best set of any size
(Nemhauser, Wolsey, Fisher 1978). Measured on the starter's answers (benchmarks/labels.py): 60 % of
fresh questions need 54 to 67 % fewer labels than a random choice of rows. Uncertainty sampling
needed more labels than that choice.
"""

import heapq
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WIDTH = 8192
"""Buckets that pieces of text are hashed into."""
MOST = 4000
"""Questions of a pool that are compared with one another: the ones that were asked most often."""
# Their similarities are a matrix of 64 MB.
SAME_WORDS = 0.4
"""Likeness of words from which two questions are taken to have one answer."""
# Chosen on pools of seeds 100 to 102, of 0.35, 0.4, 0.45 and 0.5 (benchmarks/labels.py draws
# the pools of seeds 0 to 9). Vectors of an embedder have likenesses of another scale.
_TIE = 0.001
_PIECES = (2, 3, 4)
"""Lengths of the pieces of text, in characters: they serve Chinese as well."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A question that was chosen."""

    index: int
    """Its place in the pool."""
    gain: float
    """Share of the pool that it adds to what is covered."""
    covered: float
    """Share of the pool that is covered with it and all before it."""


def choose(
    vectors: "np.ndarray",
    counts: Sequence[int],
    answered: "np.ndarray",
    budget: int,
    same: float = 0.0,
) -> list[Choice]:
    """Return the questions to answer, the most valuable first.

    `vectors` has a row of length 1 for each question, which was asked `counts` times; `answered`
    has the rows of the questions that are answered already. From a likeness of `same` on one answer
    serves both of two questions, and none below; at 0 it serves them as much as they are alike.
    """
    import numpy as np

    weights = np.asarray(counts, dtype=np.float32)
    weights /= max(1.0, float(weights.sum()))
    likeness = _served(vectors @ vectors.T, same)
    covered = np.zeros(len(vectors), dtype=np.float32)
    for start in range(0, len(answered), MOST):
        near = _served(vectors @ answered[start : start + MOST].T, same)
        covered = np.maximum(covered, near.max(axis=1, initial=0))

    def gain(index: int) -> float:
        return float(weights @ np.maximum(likeness[index] - covered, 0))

    # Gains never grow: an old one is a bound, so most questions need no second look.
    waiting = [(-gain(index), index) for index in range(len(vectors))]
    heapq.heapify(waiting)
    chosen: list[Choice] = []
    while waiting and len(chosen) < budget:
        _, index = heapq.heappop(waiting)
        now = gain(index)
        if waiting and now < -waiting[0][0]:
            heapq.heappush(waiting, (-now, index))
            continue
        covered = np.maximum(covered, likeness[index])
        chosen.append(Choice(index, now, float(weights @ covered)))
    return chosen


def _served(likeness: "np.ndarray", same: float) -> "np.ndarray":
    """Return how well an answer to one question serves another, 0 to 1, by their likeness."""
    import numpy as np

    likeness = np.clip(likeness, 0, 1)
    if not same:
        return likeness
    # Of two choices that serve equally many questions the nearer one is better.
    return np.asarray((likeness >= same) + _TIE * likeness, np.float32) / (1 + _TIE)


def word_vectors(texts: Sequence[str], others: Sequence[str] = ()) -> "np.ndarray":
    """Return a vector of length 1 for each text: TF-IDF of its pieces, hashed.

    A piece's rarity is counted over these texts and the other ones.
    """
    import numpy as np

    pieces = [Counter(_pieces(text)) for text in texts]
    seen = Counter(bucket for each in pieces for bucket in each)
    seen.update(bucket for text in others for bucket in set(_pieces(text)))
    count = len(texts) + len(others)
    vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, each in zip(vectors, pieces, strict=True):
        for bucket, times in each.items():
            row[bucket] = (1 + math.log(times)) * math.log((1 + count) / (1 + seen[bucket]) + 1)
    sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(sizes, 1e-9))


def _pieces(text: str) -> Iterator[int]:
    plain = f" {normal(text)} "
    for length in _PIECES:
        for start in range(len(plain) - length + 1):
            yield zlib.crc32(plain[start : start + length].encode("utf-8", "replace")) % WIDTH


def normal(text: str) -> str:
    """Return a question without what does not change it: case, spaces, marks at its end."""
    return re.sub(r"\s+", " ", text.casefold()).strip(" .?!。？！…")
