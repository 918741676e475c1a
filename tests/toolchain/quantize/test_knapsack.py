"""One choice of each: as good as trying everything, and never over the limit."""

import itertools
import random

import pytest

from toolchain.quantize.learned import knapsack

Case = tuple[list[list[int]], list[list[float]]]


def random_case(seed: int) -> Case:
    draw = random.Random(seed)
    counts = [draw.randint(1, 4) for _ in range(draw.randint(1, 5))]
    return [[draw.randint(1, 30) for _ in range(n)] for n in counts], [
        [draw.random() for _ in range(n)] for n in counts
    ]


def least(case: Case, limit: int) -> float:
    sizes, damages = case
    every = itertools.product(*(range(len(size)) for size in sizes))
    return min(total(damages, picks) for picks in every if total(sizes, picks) <= limit)


def total(values: list[list[float]] | list[list[int]], picks: tuple[int, ...]) -> float:
    return sum(value[pick] for value, pick in zip(values, picks, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_every_limit_gets_what_trying_everything_gives(seed: int) -> None:
    case = random_case(seed)
    front = knapsack.solve(*case)
    for limit in range(int(front.sizes[0]), sum(max(size) for size in case[0]) + 1, 5):
        point = front.within(limit)
        picks = tuple(front.picks[point].tolist())
        assert total(case[0], picks) == front.sizes[point] <= limit
        assert total(case[1], picks) == pytest.approx(least(case, limit), abs=1e-12)


def test_a_thinned_front_still_holds_choices_that_were_made_and_its_two_ends() -> None:
    draw = random.Random(0)
    sizes = [[draw.randint(1, 10**6) for _ in range(6)] for _ in range(12)]
    damages = [sorted((draw.random() for _ in range(6)), reverse=True) for _ in range(12)]
    front = knapsack.solve(sizes, damages, max_points=64)
    assert 16 < len(front.sizes) <= 64
    for point in range(len(front.sizes)):
        picks = tuple(front.picks[point].tolist())
        assert (total(sizes, picks), total(damages, picks)) == (
            front.sizes[point],
            pytest.approx(front.damages[point]),
        )
    assert front.sizes[0] == sum(min(size) for size in sizes)
    assert front.damages[-1] == pytest.approx(sum(min(damage) for damage in damages))


def test_a_limit_below_the_smallest_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is as small as 4"):
        knapsack.solve([[5, 9]], [[1.0, 0.0]]).within(4)
