"""Mean of a quantity per token, and the standard error of that mean."""

import math
from collections.abc import Sequence


def mean_and_error(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Return the mean per token over all texts, and its standard error.

    `sums` and `counts` hold the total and the number of tokens of each text. Tokens of one text
    depend on each other, so the error is that of drawing whole texts anew.
    """
    tokens = sum(counts)
    mean = sum(sums) / tokens
    squares = sum((total - mean * count) ** 2 for total, count in zip(sums, counts, strict=True))
    return mean, math.sqrt(squares) / tokens
