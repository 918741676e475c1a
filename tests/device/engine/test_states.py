"""What a prompt reuses, and the limit of the prefix cache.

A prompt reuses tokens only up to where reading it from the beginning would have cut too.
"""

import pytest

from device.engine.states import BATCH, Memory, PrefixCache, batch_end, of_prefix

PREFIX = list(range(100))
QUESTION, ANSWER = [200, 201, 202], [300, 301]
TALK = Memory([*PREFIX, *QUESTION, *ANSWER], 100, [0, 100], 103)


@pytest.mark.parametrize(
    ("prompt", "prefix", "usable"),
    [
        ([*PREFIX, *QUESTION, *ANSWER, 7], 100, 105),
        ([*PREFIX, *QUESTION, 300, 9], 100, 104),
        ([*PREFIX, *QUESTION], 100, 100),
        ([*PREFIX, 200, 9], 100, 100),
        ([*PREFIX[:50], 9], 100, 0),
        ([*PREFIX, *QUESTION, *ANSWER, 7], 0, 0),
        ([*PREFIX, *QUESTION, *ANSWER, 7], 50, 0),
        ([9, 9], 0, 0),
    ],
    ids=[
        "goes on",
        "goes on after half an answer",
        "the same again",
        "another question",
        "another prefix",
        "read without a prefix",
        "read with a shorter prefix",
        "nothing in common",
    ],
)
def test_what_a_prompt_can_take_up(prompt: list[int], prefix: int, usable: int) -> None:
    assert TALK.usable(prompt, prefix) == usable


def test_long_prompts_share_whole_batches() -> None:
    long = list(range(3 * BATCH))
    read = Memory([*long], 0, [0, BATCH, 2 * BATCH], len(long))
    assert read.usable([*long[: 2 * BATCH + 5], 9], 0) == 2 * BATCH
    assert read.usable([*long[: 2 * BATCH - 5], 9], 0) == BATCH
    assert read.usable([*long, 9], BATCH + 1) == 0


def test_what_is_cut_off_is_no_cut_any_more() -> None:
    memory = Memory(list(range(1200)), 100, [0, 100, 612, 1124], 1200)
    memory.cut_to(612)
    assert (len(memory.tokens), memory.cuts, memory.asked) == (612, [0, 100, 612], 612)


def test_the_prefix_cache_drops_what_was_used_longest_ago_but_not_what_is_pinned() -> None:
    cache = PrefixCache(100)
    cache.put(of_prefix(PREFIX), b"x" * 40, pinned=True)
    cache.put(Memory([1, 2, 3], 0, [0], 2), b"1" * 30)
    cache.put(Memory([4, 5, 6], 0, [0], 2), b"2" * 30)
    assert cache.best([1, 2, 3, 4], 0)
    cache.put(Memory([7, 8, 9], 0, [0], 2), b"3" * 30)
    assert cache.size_bytes == 100
    assert cache.best([4, 5, 6, 7], 0) is None
    assert [cache.state_of(tokens)[:1] for tokens in ([1, 2, 3], [7, 8, 9], PREFIX)] == [
        b"1",
        b"3",
        b"x",
    ]


def test_a_conversation_that_went_on_takes_the_place_of_its_beginning_and_leaves_the_prefix() -> (
    None
):
    cache = PrefixCache(1000)
    cache.put(of_prefix(PREFIX), b"prefix")
    cache.put(TALK, b"talk")
    longer = Memory([*TALK.tokens, 7, 8, 9], 100, [0, 100, 105], 107)
    cache.put(longer, b"longer")
    assert cache.size_bytes == len(b"prefix" + b"longer")
    assert cache.best([*longer.tokens, 1], 100) == (108, longer, b"longer")
    assert cache.best([*PREFIX, 1], 100) is not None


def test_a_state_larger_than_the_prefix_cache_is_not_kept() -> None:
    cache = PrefixCache(10)
    cache.put(TALK, b"x" * 11)
    assert cache.size_bytes == 0


def test_room_is_made_before_there_is_a_state() -> None:
    cache = PrefixCache(100)
    cache.put(Memory([1, 2, 3], 0, [0], 2), b"1" * 60)
    assert not cache.make_room(TALK, 101)
    assert cache.size_bytes == 60
    assert cache.make_room(TALK, 41)
    assert cache.size_bytes == 0
    cache.put(of_prefix(PREFIX), b"x" * 60, pinned=True)
    assert not cache.make_room(TALK, 41)


def seen(digest: int, count: int) -> list[int]:
    """Return the ids of a picture's positions, as an engine makes them."""
    return [-(digest << 16) - place - 1 for place in range(count)]


@pytest.mark.parametrize(
    ("before", "end"),
    [(0, 512), (100, 512), (BATCH - 300, 512), (BATCH - 299, BATCH - 299), (BATCH - 1, BATCH - 1)],
)
def test_a_batch_ends_before_the_picture_that_it_would_cut(before: int, end: int) -> None:
    tokens = [*range(before), *seen(7, 300), *range(600)]
    assert batch_end(tokens, 0) == end
    assert batch_end(tokens, len(tokens) - 5) == len(tokens)


def test_two_pictures_one_behind_the_other_are_cut_between_them() -> None:
    tokens = [*seen(7, 300), *seen(8, 300), 1]
    assert batch_end(tokens, 0) == 300
    assert batch_end(tokens, 300) == len(tokens)


def test_a_picture_longer_than_a_batch_is_cut_all_the_same() -> None:
    assert batch_end([*seen(7, 900)], 0) == BATCH


def test_a_prefix_with_a_picture_is_reused_up_to_where_reading_it_would_cut() -> None:
    prefix = [*range(400), *seen(7, 300), *range(400, 500)]
    read = of_prefix(prefix)
    assert read.cuts == [0, 400, len(prefix)]
    # Another prompt that shares the picture but not what follows it.
    assert read.usable([*prefix[:750], 9, 9], 750) == 400
