"""Vectors that are kept from one run to the next: found again, and no larger than what is used."""

from contextlib import closing
from pathlib import Path

import numpy as np

from toolchain.knowledge.cache import VectorCache

WIDTH = 384
TEXTS = [f"text {number}" for number in range(300)]


def vectors_of(texts: list[str], seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(len(texts), WIDTH)).astype("<f4")


def test_vectors_are_found_by_their_text_and_their_maker(tmp_path: Path) -> None:
    made = vectors_of(TEXTS)
    with closing(VectorCache(tmp_path / "vectors.db", "one")) as cache:
        cache.add(TEXTS, made)
    with closing(VectorCache(tmp_path / "vectors.db", "one")) as cache:
        assert cache.missing([*TEXTS, "another"]) == ["another"]
        assert np.array_equal(cache.vectors(TEXTS[7:9]), made[7:9])
    with closing(VectorCache(tmp_path / "vectors.db", "two")) as cache:
        assert cache.missing(TEXTS) == TEXTS


def test_a_vector_takes_little_more_than_its_numbers(tmp_path: Path) -> None:
    with closing(VectorCache(tmp_path / "vectors.db", "one")) as cache:
        cache.add(TEXTS, vectors_of(TEXTS))
    assert (tmp_path / "vectors.db").stat().st_size < 1.4 * len(TEXTS) * WIDTH * 4


def test_what_another_embedder_made_is_dropped_and_its_room_given_back(tmp_path: Path) -> None:
    file = tmp_path / "vectors.db"
    with closing(VectorCache(file, "one")) as cache:
        cache.add(TEXTS, vectors_of(TEXTS))
        whole = file.stat().st_size
    new = vectors_of(TEXTS[:100], seed=1)
    with closing(VectorCache(file, "two")) as cache:
        cache.add(TEXTS[:100], new)
        cache.drop_others()
        assert np.array_equal(cache.vectors(TEXTS[:100]), new)
    assert file.stat().st_size < 0.5 * whole
    with closing(VectorCache(file, "one")) as cache:
        assert cache.missing(TEXTS) == TEXTS


def test_texts_that_are_not_used_now_are_kept(tmp_path: Path) -> None:
    with closing(VectorCache(tmp_path / "vectors.db", "one")) as cache:
        cache.add(TEXTS, vectors_of(TEXTS))
        cache.drop_others()
        assert cache.missing(TEXTS) == []


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "vectors.db"
    file.write_bytes(b"no database" * 1000)
    with closing(VectorCache(file, "one")) as cache:
        assert cache.missing(TEXTS) == TEXTS
