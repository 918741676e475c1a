"""Logistic regression over hashed n-grams, in numpy: texts and labels → a guard's weights.

The rule to keep: the features are those of `device.manifest.guard`, computed by the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.manifest.guard import BUCKETS, KIND_BUCKETS, Guard, hashed, windows
from device.manifest.guard_text import plain
from toolchain.guard.texts import KINDS, Entry

Floats = NDArray[np.float64]
STEPS = 300
_KIND_STEPS = 150
_DECAY = 1e-6
"""Weight of the L2 penalty."""
_RATE = 6.0
# Rows have length 1, so the curvature of the loss is at most a quarter of the share of the rows'
# largest common direction, which is about 0.4.


@dataclass(frozen=True, slots=True)
class Rows:
    """Hashed n-grams of texts, one after the other, each n-gram with the value of its row."""

    buckets: NDArray[np.int64]
    begins: NDArray[np.int64]
    """Where each text begins; and the end of the last one."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of n-grams of each text."""
        return np.asarray(np.diff(self.begins), np.int64)

    @property
    def norms(self) -> Floats:
        """What the sum of each row is divided by."""
        return np.sqrt(self.lengths)

    def products(self, weights: Floats) -> Floats:
        """Return the product of each row with weights."""
        return np.asarray(np.add.reduceat(weights[self.buckets], self.begins[:-1]) / self.norms)

    def transposed(self, values: Floats, size: int) -> Floats:
        """Return the sum of all rows, each times its value."""
        spread = np.repeat(values / self.norms, self.lengths)
        return np.asarray(np.bincount(self.buckets, weights=spread, minlength=size), np.float64)


def rows_of(texts: Sequence[str], mask: int = BUCKETS - 1) -> Rows:
    """Return the rows of texts; of a long one the windows' n-grams together."""
    found = []
    for text in texts:
        grams: set[int] = set()
        for window in windows(plain(text)):
            grams |= hashed(window)
        # As many as before the mask, as the board sums them.
        found.append(np.fromiter((gram & mask for gram in sorted(grams or {0})), np.int64))
    begins = np.cumsum([0, *(len(each) for each in found)])
    return Rows(np.concatenate(found), begins)


def train(entries: Sequence[Entry], wishes: Sequence[Entry], steps: int = STEPS) -> Guard:
    """Return a guard that was trained on sentences; its thresholds are not set yet.

    Categories are learned from the bare `wishes`: in a sentence the words around would be learned.
    """
    rows = rows_of([entry.text for entry in entries])
    labels = np.array([float(entry.unsafe) for entry in entries])
    weights, bias = _fit(rows, labels, _balanced(labels), steps)
    packed, scale = _packed(weights)

    kinds, kind_weights, kind_biases = _fit_kinds([each for each in wishes if each.kind])
    kind_packed, kind_scale = _packed(kind_weights)
    return Guard(
        weights=packed,
        scale=scale,
        bias=bias,
        kinds=kinds,
        kind_weights=kind_packed,
        kind_scale=kind_scale,
        kind_biases=tuple(kind_biases),
    )


def _balanced(labels: Floats) -> Floats:
    """Return the weight of each text: both classes count alike, one in all."""
    share = float(labels.mean())
    each = np.where(labels > 0, 0.5 / max(share, 1e-9), 0.5 / max(1 - share, 1e-9))
    return np.asarray(each / len(labels))


def _fit(rows: Rows, labels: Floats, counts: Floats, steps: int) -> tuple[Floats, float]:
    """Return weights and bias by Nesterov's accelerated gradient, from zero."""
    weights, bias = np.zeros(BUCKETS), 0.0
    ahead, ahead_bias = weights, bias
    for step in range(1, steps + 1):
        error = counts * (_sigmoid(rows.products(ahead) + ahead_bias) - labels)
        slope = rows.transposed(error, BUCKETS) + _DECAY * ahead
        after = ahead - _RATE * slope
        after_bias = ahead_bias - _RATE * float(error.sum())
        momentum = (step - 1) / (step + 2)
        ahead = after + momentum * (after - weights)
        ahead_bias = after_bias + momentum * (after_bias - bias)
        weights, bias = after, after_bias
    return weights, bias


def _fit_kinds(entries: Sequence[Entry]) -> tuple[tuple[str, ...], Floats, list[float]]:
    """Return the categories of texts, with weights and bias of each (softmax regression)."""
    kinds = tuple(kind for kind in KINDS if any(entry.kind == kind for entry in entries))
    if not kinds:
        return (), np.zeros(0), []
    rows = rows_of([entry.text for entry in entries], KIND_BUCKETS - 1)
    labels = np.array([kinds.index(entry.kind) for entry in entries])
    wanted = np.eye(len(kinds))[labels]
    counts = wanted.sum(axis=0)
    # A category with few texts counts for more, though not as much as its rarity says.
    share = (1 / np.sqrt(counts))[labels]
    share /= share.sum()

    weights = ahead = np.zeros((len(kinds), KIND_BUCKETS))
    biases = ahead_biases = np.zeros(len(kinds))
    for step in range(1, _KIND_STEPS + 1):
        margins = np.stack([rows.products(row) for row in ahead], axis=1) + ahead_biases
        powers = np.exp(margins - margins.max(axis=1, keepdims=True))
        error = (powers / powers.sum(axis=1, keepdims=True) - wanted) * share[:, None]
        slopes = [rows.transposed(column, KIND_BUCKETS) for column in error.T]
        after = ahead - _RATE * (np.stack(slopes) + _DECAY * ahead)
        after_biases = ahead_biases - _RATE * error.sum(axis=0)
        momentum = (step - 1) / (step + 2)
        ahead = after + momentum * (after - weights)
        ahead_biases = after_biases + momentum * (after_biases - biases)
        weights, biases = after, after_biases
    return kinds, weights.ravel(), [round(float(bias), 6) for bias in biases]


def _packed(weights: Floats) -> tuple[bytes, float]:
    """Return weights as signed bytes, and what one step of a byte is worth."""
    # The largest weights are cut: 127 steps up to the largest one would leave small ones at 0.
    most = float(np.quantile(np.abs(weights), 0.9998)) if len(weights) else 0.0
    scale = most / 127 or 1.0
    codes = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
    return codes.tobytes(), scale


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -40, 40))))
