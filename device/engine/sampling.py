"""Sampling from a row of logits in llama.cpp's order.

Biases, penalties, top-k, top-p, min-p, temperature, draw.
"""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from device.engine.answering import Chosen
from device.engine.base import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Sampler:
    """Draws the tokens of one answer."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.short_seed)
        self._came: Counter[int] = Counter()

    def choose(self, logits: "NDArray[np.float32]") -> Chosen:
        """Return the likeliest token or a drawn one, with log-probabilities if asked for."""
        shaped = self._shaped(logits)
        token = int(shaped.argmax()) if self._sampling.temperature == 0 else self._drawn(shaped)
        self._came[token] += 1
        return token, [] if self._sampling.top_logprobs is None else self._likely(
            logits, token, self._sampling.top_logprobs
        )

    def _shaped(self, logits: "NDArray[np.float32]") -> "NDArray[np.float32]":
        """Return the logits with biases and penalties, by OpenAI's and llama.cpp's formulas."""
        sampling = self._sampling
        if not sampling.logit_bias and not sampling.penalized:
            return logits

        shaped = logits.copy()
        for token, bias in sampling.logit_bias:
            shaped[token] += bias
        if sampling.penalized:
            for token, times in self._came.items():
                factor = sampling.repeat_penalty
                shaped[token] *= 1 / factor if shaped[token] > 0 else factor
                shaped[token] -= times * sampling.frequency_penalty + sampling.presence_penalty
        return shaped

    def _drawn(self, logits: "NDArray[np.float32]") -> int:
        order = self._kept(logits)
        chances = _softmax(logits[order].astype(np.float64) / self._sampling.temperature)
        return int(order[self._random.choice(len(order), p=chances)])

    def _likely(
        self, logits: "NDArray[np.float32]", chosen: int, count: int
    ) -> list[tuple[int, float]]:
        shifted = logits.astype(np.float64) - logits.max()
        known = shifted - np.log(np.exp(shifted).sum())
        likeliest = np.argsort(-known, kind="stable")[:count]
        return [(int(token), float(known[token])) for token in (chosen, *likeliest)]

    def _kept(self, logits: "NDArray[np.float32]") -> "NDArray[np.int64]":
        """Return the tokens that can be drawn, the likeliest first."""
        sampling = self._sampling
        count = min(sampling.top_k or len(logits), len(logits))
        order = np.argpartition(-logits, count - 1)[:count]
        order = order[np.argsort(-logits[order], kind="stable")]
        chances = _softmax(logits[order].astype(np.float64))
        if sampling.top_p < 1:
            order = order[: int(np.searchsorted(chances.cumsum(), sampling.top_p)) + 1]
            chances = _softmax(logits[order].astype(np.float64))

        kept: NDArray[np.int64] = order[chances >= sampling.min_p * chances[0]]
        return kept


def _softmax(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    grown: NDArray[np.float64] = np.exp(values - values.max())
    total: NDArray[np.float64] = grown / grown.sum()
    return total
