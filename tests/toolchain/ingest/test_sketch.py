"""Sketches: what they rule out is never near, and of long texts they rule out nearly all."""

import random

import numpy as np

from toolchain.ingest.clean.near import Signer, near_pairs, share
from toolchain.ingest.clean.sketch import SKETCH_BYTES, Sieve

LIMIT = 0.6
LETTERS = random.Random(7)
WORDS = ["".join(LETTERS.choices("abcdefghilmnoprstu", k=6)) for _ in range(4000)]
COMMON = ["the", "of", "and", "board", "with", "that"]


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(COMMON if draw.random() < 0.4 else WORDS) for _ in range(words))


def changed(draw: random.Random, given: str, words: int) -> str:
    """Return a text with so many of its words changed."""
    parts = given.split()
    for at in draw.sample(range(len(parts)), words):
        parts[at] = draw.choice(WORDS)
    return " ".join(parts)


def sketches(texts: list[str]) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    return np.concatenate([each for _, each in Signer().signed(texts)])


def test_no_pair_that_is_near_is_ruled_out() -> None:
    draw = random.Random(0)
    first = [text(draw, draw.choice((6, 40, 200))) for _ in range(1500)]
    second = [changed(draw, each, max(1, len(each.split()) // 12)) for each in first]
    near = [at for at in range(1500) if share(first[at], second[at]) >= LIMIT]
    assert len(near) > 700
    may_be = Sieve(LIMIT).may_be_near(sketches(first), sketches(second))
    assert may_be[near].all()


def test_texts_that_only_share_their_language_are_ruled_out() -> None:
    draw = random.Random(1)
    first, second = ([text(draw, 200) for _ in range(500)] for _ in range(2))
    shares = [share(*pair) for pair in zip(first, second, strict=True)]
    assert 0.03 < np.mean(shares) < LIMIT / 2, "they do have pieces in common"
    may_be = Sieve(LIMIT).may_be_near(sketches(first), sketches(second))
    assert may_be.mean() < 0.1


def test_a_sketch_is_small_and_that_of_the_same_text_the_same() -> None:
    one, other = sketches(["the board is hot", "the board is hot"])
    assert (one == other).all() and one.nbytes == SKETCH_BYTES


def test_a_near_text_among_many_with_a_band_in_common_is_found() -> None:
    """Eight texts that are not near would have taken the places of the one that is."""
    draw = random.Random(2)
    texts = [text(draw, 260) for _ in range(3000)]
    later = [changed(draw, each, 4) for each in texts[:200]]
    every = [*texts, *later]
    pairs = set(near_pairs(every, every.__getitem__, LIMIT))
    right = {(at, at + 3000) for at in range(200)}
    assert len(pairs & right) >= 190
