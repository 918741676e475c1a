"""Pairwise masks: all together nothing, one by one noise."""

import os
import random

import pytest

from toolchain.rounds.masks import (
    MODULUS,
    from_bytes,
    masked,
    new_secret,
    public_of,
    summed,
    to_bytes,
)

PARTIES = 100


def hidden(values: dict[str, list[int]], context: bytes = b"round") -> dict[str, list[int]]:
    secrets = {owner: new_secret() for owner in values}
    keys = {owner: public_of(secret) for owner, secret in secrets.items()}
    return {owner: masked(values[owner], owner, secrets[owner], keys, context) for owner in values}


@pytest.fixture(scope="module")
def counters() -> dict[str, list[int]]:
    draw = random.Random(1)
    return {f"owner-{n}": [draw.randrange(1 << 20) for _ in range(3)] for n in range(PARTIES)}


@pytest.fixture(scope="module")
def sealed(counters: dict[str, list[int]]) -> dict[str, list[int]]:
    return hidden(counters)


def test_the_sum_over_a_hundred_parties_is_exact(
    counters: dict[str, list[int]], sealed: dict[str, list[int]]
) -> None:
    expected = [sum(column) for column in zip(*counters.values(), strict=True)]
    assert summed(sealed.values()) == expected


def test_a_subset_of_any_size_sums_to_noise(sealed: dict[str, list[int]]) -> None:
    """Noise is below 2^36 with a probability of 2^-28 for each number."""
    for size in (1, 2, PARTIES // 2, PARTIES - 1):
        chosen = random.Random(size).sample(sorted(sealed), size)
        assert all(value >= 1 << 36 for value in summed(sealed[owner] for owner in chosen))


def test_a_masked_vector_is_uniform_and_tells_nothing_of_its_values() -> None:
    """Chi-square of the bytes of zeros under the masks of 200 rounds: 255 degrees of freedom.

    Less than one value of ten million lies below 150 or above 400.
    """
    counts = [0] * 256
    for _ in range(200):
        vectors = hidden({owner: [0] * 8 for owner in "abc"})
        for byte in to_bytes(vectors["a"]):
            counts[byte] += 1
    expected = sum(counts) / 256
    assert 150 < sum((count - expected) ** 2 / expected for count in counts) < 400


def test_what_the_masks_are_for_decides_them() -> None:
    secrets = {owner: new_secret() for owner in "abc"}
    keys = {owner: public_of(secret) for owner, secret in secrets.items()}
    rounds = dict.fromkeys("ab", b"one") | {"c": b"two"}
    vectors = [masked([7], owner, secrets[owner], keys, rounds[owner]) for owner in "abc"]
    assert summed(vectors)[0] > 1 << 36


def test_each_counter_has_a_mask_of_its_own() -> None:
    vector = hidden({"a": [0] * 50, "b": [0] * 50})["a"]
    assert len(set(vector)) == 50


def test_the_agreed_key_is_not_the_mask_of_another_pair() -> None:
    secrets = {owner: new_secret() for owner in "abc"}
    keys = {owner: public_of(secret) for owner, secret in secrets.items()}
    same = {"a": keys["a"], "b": keys["b"], "c": keys["b"]}
    with_both = masked([0], "a", secrets["a"], same, b"")[0]
    with_one = masked([0], "a", secrets["a"], {"a": keys["a"], "b": keys["b"]}, b"")[0]
    assert with_both not in (2 * with_one % MODULUS, 0)


def test_a_key_that_agrees_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="shared key"):
        masked([1], "a", new_secret(), {"a": b"", "b": bytes(32)}, b"")


def test_numbers_survive_their_bytes() -> None:
    numbers = [0, 1, MODULUS - 1, int.from_bytes(os.urandom(8), "big")]
    assert from_bytes(to_bytes(numbers)) == numbers
