"""A prompt takes up what was read before only where reading it from the beginning would have been cut too; the shelf is bounded."""

import pytest

from device.engine.states import BATCH, Memory, Shelf, of_lead

LEAD = list(range(100))
QUESTION, ANSWER = [200, 201, 202], [300, 301]
TALK = Memory([*LEAD, *QUESTION, *ANSWER], 100, [0, 100], 103)


@pytest.mark.parametrize(
    ("prompt", "lead", "usable"),
    [
        ([*LEAD, *QUESTION, *ANSWER, 7], 100, 105),
        ([*LEAD, *QUESTION, 300, 9], 100, 104),
        ([*LEAD, *QUESTION], 100, 100),
        ([*LEAD, 200, 9], 100, 100),
        ([*LEAD[:50], 9], 100, 0),
        ([*LEAD, *QUESTION, *ANSWER, 7], 0, 0),
        ([*LEAD, *QUESTION, *ANSWER, 7], 50, 0),
        ([9, 9], 0, 0),
    ],
    ids=[
        "goes on",
        "goes on after half an answer",
        "the same again",
        "another question",
        "another lead",
        "read without a lead",
        "read with a shorter lead",
        "nothing in common",
    ],
)
def test_what_a_prompt_can_take_up(prompt: list[int], lead: int, usable: int) -> None:
    assert TALK.usable(prompt, lead) == usable


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


def test_the_shelf_drops_what_was_used_longest_ago_but_not_what_is_pinned() -> None:
    shelf = Shelf(100)
    shelf.put(of_lead(LEAD), b"x" * 40, pinned=True)
    shelf.put(Memory([1, 2, 3], 0, [0], 2), b"1" * 30)
    shelf.put(Memory([4, 5, 6], 0, [0], 2), b"2" * 30)
    assert shelf.best([1, 2, 3, 4], 0)
    shelf.put(Memory([7, 8, 9], 0, [0], 2), b"3" * 30)
    assert shelf.size_bytes == 100
    assert shelf.best([4, 5, 6, 7], 0) is None
    assert [shelf.state_of(tokens)[:1] for tokens in ([1, 2, 3], [7, 8, 9], LEAD)] == [
        b"1",
        b"3",
        b"x",
    ]


def test_a_conversation_that_went_on_takes_the_place_of_its_beginning_and_leaves_the_lead() -> None:
    shelf = Shelf(1000)
    shelf.put(of_lead(LEAD), b"lead")
    shelf.put(TALK, b"talk")
    longer = Memory([*TALK.tokens, 7, 8, 9], 100, [0, 100, 105], 107)
    shelf.put(longer, b"longer")
    assert shelf.size_bytes == len(b"lead" + b"longer")
    assert shelf.best([*longer.tokens, 1], 100) == (108, longer, b"longer")
    assert shelf.best([*LEAD, 1], 100) is not None


def test_a_state_larger_than_the_shelf_is_not_kept() -> None:
    shelf = Shelf(10)
    shelf.put(TALK, b"x" * 11)
    assert shelf.size_bytes == 0


def test_room_is_made_before_there_is_a_state() -> None:
    shelf = Shelf(100)
    shelf.put(Memory([1, 2, 3], 0, [0], 2), b"1" * 60)
    assert not shelf.make_room(TALK, 101)
    assert shelf.size_bytes == 60
    assert shelf.make_room(TALK, 41)
    assert shelf.size_bytes == 0
    shelf.put(of_lead(LEAD), b"x" * 60, pinned=True)
    assert not shelf.make_room(TALK, 41)
