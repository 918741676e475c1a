"""The audit: what right guesses prove, and what they do not."""

import math
import random

import pytest

from toolchain.privacy.canaries import Canary, Guesses, guess, least_epsilon, make_canaries


def guesses(right: int, made: int, canaries: int = 0) -> Guesses:
    return Guesses(canaries=canaries or made, made=made, right=right)


def test_without_delta_all_right_guesses_prove_what_the_binomial_says() -> None:
    # All of r guesses are right with probability (e^ε / (1 + e^ε))^r at most.
    share = 0.05 ** (1 / 100)
    expected = math.log(share / (1 - share))
    assert least_epsilon(guesses(100, 100), 0.0) == pytest.approx(expected, abs=1e-3)


def test_guesses_as_good_as_chance_prove_nothing() -> None:
    assert least_epsilon(guesses(50, 100), 1e-5) == 0.0
    assert least_epsilon(guesses(0, 0, canaries=1), 1e-5) == 0.0


def test_more_right_guesses_prove_more_and_a_delta_takes_some_of_it_away() -> None:
    found = [least_epsilon(guesses(right, 100), 1e-5) for right in (60, 75, 90, 100)]
    assert found == sorted(found)
    assert found[1] > 0.5
    assert least_epsilon(guesses(100, 100), 1e-2) < found[-1]


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_a_mechanism_of_that_epsilon_is_called_worse_in_one_of_twenty_at_most(
    epsilon: float,
) -> None:
    # Randomized response on each canary is ε-private, and guesses as well as anything may.
    draw = random.Random(0)
    share = 1 / (1 + math.exp(-epsilon))
    beyond = 0
    for _ in range(400):
        right = sum(draw.random() < share for _ in range(60))
        beyond += least_epsilon(guesses(right, 60), 0.0) > epsilon
    assert beyond / 400 <= 0.08
    assert beyond > 0  # a bound that never fails would be none of 95 %


def test_the_likeliest_are_guessed_to_be_planted() -> None:
    canaries = [Canary(question="", answer="", planted=number < 5) for number in range(9)]
    scores = [float(-number) for number in range(9)]
    assert guess(canaries, scores) == Guesses(canaries=9, made=6, right=6)
    assert guess(canaries, scores[::-1]) == Guesses(canaries=9, made=6, right=0)


def test_coins_and_codes_are_new_each_time() -> None:
    first, second = make_canaries(200), make_canaries(200)
    assert [each.answer for each in first] != [each.answer for each in second]
    assert [each.planted for each in first] != [each.planted for each in second]
    assert 60 < sum(each.planted for each in first) < 140
    assert len({each.question for each in first}) == 200
