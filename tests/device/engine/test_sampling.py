"""Samplers of numpy change logits by llama.cpp's and OpenAI's formulas."""

import pytest

np = pytest.importorskip("numpy")

from device.engine.base import Sampling  # noqa: E402
from device.engine.sampling import Sampler  # noqa: E402


def test_a_repeat_penalty_divides_what_came_and_multiplies_it_below_zero() -> None:
    for logits in ([3.0, 2.0, -1.0], [-1.0, -1.5, -4.0]):
        sampler = Sampler(Sampling(repeat_penalty=2.0))
        row = np.array(logits, dtype=np.float32)
        assert [sampler.choose(row)[0] for _ in range(2)] == [0, 1]
        assert list(row) == logits
