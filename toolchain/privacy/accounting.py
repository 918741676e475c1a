"""Privacy accounting: ε of a training of many noisy steps, each on a Poisson sample of the units.

The privacy loss distribution of one step is put on a grid and composed with itself by FFT.
Neighbours differ by one unit, which is there or not; both directions are looked at. The rule to
keep: what is rounded is rounded towards a larger ε, so the result is an upper bound
(docs/adr/0014).
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray

POINTS = 1 << 15
"""Points of the grid on which losses are composed."""
TAIL = 1e-3
"""Share of δ that what lies outside of the grid may have; it counts in full."""
MARGIN, FINE, ROUNDS = 1.05, 1.25, 4
"""How much coarser than needed a grid is made, how much it may be, and after how many tries it is
taken all the same."""
SMALLEST_DELTA = 1e-10
"""Below it the rounding of an FFT in double precision shows."""
SMALLEST_RANGE = 1e-6
"""Least range of losses that a grid covers: with little noise all losses but a few are one."""
MOST_EPSILON, MOST_NOISE = 500.0, 1e4
DIGITS = 3
"""Decimals of a noise multiplier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Noisy steps of a training."""

    sampling_rate: float
    """Probability with which a step reads a unit."""
    noise_multiplier: float
    """Standard deviation of the noise, in units of the clipping norm."""
    count: int


def epsilon_of(steps: Steps, delta: float) -> float:
    """Return the ε that some steps cost at a δ; infinite without noise."""
    _check(steps, delta)
    if steps.noise_multiplier == 0:
        return math.inf
    return max(_epsilon(steps, delta, removes=removes) for removes in (True, False))


def noise_for(epsilon: float, steps: Steps, delta: float) -> float:
    """Return the least noise multiplier, to DIGITS decimals, with which steps cost at most ε.

    Raise ValueError if none does.
    """
    low, high = 0.0, 1.0
    while epsilon_of(replace(steps, noise_multiplier=high), delta) > epsilon:
        low, high = high, 2 * high
        if high > MOST_NOISE:
            raise ValueError(f"no noise up to {MOST_NOISE:g} gives an epsilon of {epsilon:g}")

    step = 10.0**-DIGITS
    while high - low > step:
        middle = round((low + high) / 2, DIGITS)
        if middle in (low, high):
            break
        if epsilon_of(replace(steps, noise_multiplier=middle), delta) > epsilon:
            low = middle
        else:
            high = middle
    return round(high, DIGITS)


def _check(steps: Steps, delta: float) -> None:
    if not 0 < steps.sampling_rate <= 1:
        raise ValueError("a sampling rate lies between 0 and 1")
    if not SMALLEST_DELTA <= delta < 1:
        raise ValueError(f"delta must be at least {SMALLEST_DELTA:g} and less than 1")
    if steps.count < 1 or steps.noise_multiplier < 0:
        raise ValueError("there must be steps, and their noise cannot be negative")


@lru_cache(maxsize=256)
def _epsilon(steps: Steps, delta: float, *, removes: bool) -> float:
    """Return ε in one direction: a unit is removed, or added."""
    tail = TAIL * delta
    low, high = _losses_of_a_step(steps, tail, removes=removes)
    if _losses_of_a_step(steps, tail, removes=True)[1] > MOST_EPSILON:
        return math.inf
    high = max(high, low + SMALLEST_RANGE)
    # What the sum of the steps may be is known when there is a grid, whose width depends on it.
    needed = (high - low) / POINTS
    for tries in itertools.count(1):
        width = MARGIN * needed
        step = _discretised(steps, (low, high), width, removes=removes)
        window = _window(step, steps.count, tail)
        needed = max(high - low, window[1] - window[0]) / POINTS
        if needed <= width and (width <= FINE * needed or tries >= ROUNDS):
            break
    return _smallest(step.composed(steps.count, window[0], tail), delta)


@dataclass(frozen=True, slots=True)
class _Losses:
    """Probabilities of privacy losses on a grid."""

    first: int
    """Number of the first point; point k is the loss k · width."""
    width: float
    mass: "Array"
    infinite: float
    """Probability that the loss is larger than the last point."""

    @property
    def losses(self) -> "Array":
        """Loss at each point."""
        import numpy as np

        return (self.first + np.arange(len(self.mass))) * self.width

    def composed(self, count: int, low: float, tail: float) -> "_Losses":
        """Return the losses of so many steps, from `low` on; `tail` of them lies above the grid."""
        import numpy as np

        circle = np.zeros(POINTS)
        np.add.at(circle, (self.first + np.arange(len(self.mass))) % POINTS, self.mass)
        mass = np.fft.irfft(np.fft.rfft(circle) ** count, POINTS)
        first = math.floor(low / self.width)
        infinite = -math.expm1(count * math.log1p(-self.infinite)) + tail
        return _Losses(first, self.width, np.roll(mass, -first).clip(0), infinite)


def _loss(steps: Steps, x: float) -> float:
    """Return log(P/Q) at x, where Q is N(0, σ²) and P is N(1, σ²) with probability q, else Q."""
    exponent = (2 * x - 1) / (2 * steps.noise_multiplier**2)
    q = steps.sampling_rate
    if q == 1:
        return exponent
    # log(1 - q + q e^exponent) without overflow.
    larger = max(exponent + math.log(q), math.log1p(-q))
    smaller = min(exponent + math.log(q), math.log1p(-q))
    return larger + math.log1p(math.exp(smaller - larger))


def _losses_of_a_step(steps: Steps, tail: float, *, removes: bool) -> tuple[float, float]:
    """Return the range that the loss of a step leaves with probability `tail` ÷ steps, at most."""
    far = -NormalDist().inv_cdf(tail / (2 * steps.count)) * steps.noise_multiplier
    if removes:
        return _loss(steps, -far), _loss(steps, 1 + far)
    return -_loss(steps, far), -_loss(steps, -far)


def _discretised(
    steps: Steps, between: tuple[float, float], width: float, *, removes: bool
) -> _Losses:
    """Return the losses of a step on a grid, none of its hockey-stick divergences smaller.

    What lies between two points goes to both so that its probability stays what it is under either
    distribution ("Connect the Dots", arXiv:2207.04380).
    """
    import numpy as np

    first = math.floor(between[0] / width)
    points = np.arange(first, math.ceil(between[1] / width) + 1)
    edges = points * width
    if removes:
        with_unit, without = _masses(steps, _places(steps, edges))
        mass, other = with_unit, without
    else:
        with_unit, without = _masses(steps, _places(steps, -edges[::-1]))
        mass, other = without[::-1], with_unit[::-1]

    inner, inner_other = mass[1:-1], other[1:-1]
    # Both are probabilities in terms of e^loss, from which the lower point's is taken out.
    span = -math.expm1(-width)
    up = ((inner - np.exp(edges[:-1]) * inner_other) / span).clip(0)
    up = np.minimum(up, inner)
    total = np.zeros(len(points))
    total[1:] += up
    total[:-1] += inner - up
    total[0] += mass[0]
    return _Losses(first, width, total, float(mass[-1]))


def _places(steps: Steps, losses: "Array") -> "Array":
    """Return the x at which log(P/Q) has these values; minus infinity below its range."""
    import numpy as np

    q, variance = steps.sampling_rate, steps.noise_multiplier**2
    if q == 1:
        places: Array = variance * losses + 0.5
        return places
    ratio = (np.expm1(losses) + q) / q
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ratio > 0, variance * np.log(ratio.clip(0)) + 0.5, -np.inf)


def _masses(steps: Steps, edges: "Array") -> tuple["Array", "Array"]:
    """Return the probabilities between edges, and outside of the first and the last one.

    The first are those of the mixture with the unit, the second those without it.
    """
    without = _normal(edges / steps.noise_multiplier)
    moved = _normal((edges - 1) / steps.noise_multiplier)
    q = steps.sampling_rate
    return (1 - q) * without + q * moved, without


def _normal(edges: "Array") -> "Array":
    """Return the standard normal's probabilities between edges, exact in both tails."""
    import numpy as np

    root = math.sqrt(0.5)
    below = np.array([math.erfc(each) for each in (-edges * root).tolist()]) / 2
    above = np.array([math.erfc(each) for each in (edges * root).tolist()]) / 2
    between = np.where(edges[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1])
    return np.concatenate([below[:1], between, above[-1:]])


def _window(step: _Losses, count: int, tail: float) -> tuple[float, float]:
    """Return a range that the summed loss of steps leaves with a probability of `tail` either way.

    By Chernoff's bound, over some exponents.
    """
    import numpy as np

    losses = step.losses
    mean = float((step.mass * losses).sum())
    spread = math.sqrt(max(float((step.mass * (losses - mean) ** 2).sum()), step.width**2))
    best = math.sqrt(2 * math.log(1 / tail) / count) / spread
    low, high = -math.inf, math.inf
    with np.errstate(divide="ignore"):
        logs = np.log(step.mass)
    for factor in np.geomspace(1 / 64, 8, 28):
        power = float(best * factor)
        high = min(high, (count * _log_mean(logs, power * losses) - math.log(tail)) / power)
        low = max(low, -(count * _log_mean(logs, -power * losses) - math.log(tail)) / power)
    most = count * float(losses[-1]), count * float(losses[0])
    return max(low, most[1]), min(high, most[0])


def _log_mean(logs: "Array", exponents: "Array") -> float:
    """Return the logarithm of the mean of e^exponents under probabilities given as logarithms."""
    import numpy as np

    terms = logs + exponents
    largest = float(terms.max())
    return largest + math.log(float(np.exp(terms - largest).sum()))


def _smallest(sum_of: _Losses, delta: float) -> float:
    """Return the least ε of at least 0 at which the hockey-stick divergence is at most δ."""
    import numpy as np

    if sum_of.infinite >= delta:
        return math.inf
    start = max(0, -sum_of.first)
    losses, mass = sum_of.losses[start:], sum_of.mass[start:]
    if not len(losses):  # no loss is positive
        return 0.0
    above = np.cumsum(mass[::-1])[::-1]
    weighted = np.cumsum((mass * np.exp(-losses))[::-1])[::-1]
    sane = losses <= MOST_EPSILON
    divergence = above[sane] - np.exp(losses[sane]) * weighted[sane] + sum_of.infinite
    enough = np.flatnonzero(divergence <= delta)
    if not len(enough):
        return math.inf
    at = int(enough[0])
    if at == 0:
        return 0.0
    # Up to this point the same losses count: the divergence is linear in e^ε.
    return math.log((above[at] + sum_of.infinite - delta) / weighted[at])
