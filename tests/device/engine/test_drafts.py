"""Drafts come from the text itself, and are tried only with time that was earned."""

import pytest

from device.engine.drafts import SIZES, DraftBudget, Lookup

STEP_S = 0.01


@pytest.mark.parametrize(
    ("text", "most", "draft"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], 3, [4, 5, 6]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, [5]),
        ([1, 2, 3, 4, 1, 2, 3], 7, [4, 1, 2, 3, 4, 1, 2]),
        ([7, 7, 7, 7], 4, [7, 7, 7, 7]),
        ([1, 2, 3, 4, 5], 4, []),
        ([1, 2], 4, []),
        ([1, 2, 3, 4, 1, 2, 3], 0, []),
    ],
    ids=[
        "what followed",
        "the last time",
        "into its own end",
        "the same again and again",
        "never said",
        "too short",
        "none asked",
    ],
)
def test_a_draft_is_what_followed_the_last_time(
    text: list[int], most: int, draft: list[int]
) -> None:
    assert Lookup(text).draft(most) == draft


def paced(steps: int, right: int) -> DraftBudget:
    """Return a budget after so many steps, of which the last were drafted right."""
    budget = DraftBudget()
    budget.begin()
    for number in range(steps):
        budget.stepped(STEP_S)
        budget.saw(right=number >= steps - right)
    return budget


def test_nothing_is_tried_before_drafts_were_right() -> None:
    assert DraftBudget().size(15) == 1
    assert paced(40, 0).size(15) == 1
    assert paced(40, 3).size(15) == 1


def test_the_more_drafts_were_right_the_more_are_tried_at_once() -> None:
    sizes = [paced(40, right).size(15) for right in range(40)]
    assert sizes == sorted(sizes)
    assert {1, min(SIZES)} <= set(sizes)


def test_a_size_is_tried_with_what_smaller_ones_have_earned() -> None:
    budget = paced(40, 30)
    tried = []
    for _ in range(6):
        size = budget.size(15)
        budget.tried(size, size, {4: 2.6, 8: 4.2, 16: 7.0}[size] * STEP_S)
        tried.append(size)
    assert tried == sorted(tried)
    assert (tried[0], tried[-1]) == (4, 16)


def test_no_more_are_tried_than_were_drafted() -> None:
    budget = paced(40, 30)
    for _ in range(6):
        budget.tried(4, 4, 2.6 * STEP_S)
    assert [budget.size(drafted) for drafted in (2, 3, 7, 14, 15)] == [1, 4, 8, 8, 16]


def test_a_batch_that_costs_as_much_as_its_tokens_is_not_tried_again() -> None:
    budget = paced(40, 30)
    for _ in range(20):
        for size in SIZES:
            budget.tried(size, size, size * STEP_S)
    assert budget.size(15) == 1


def test_a_debt_is_paid_by_later_answers() -> None:
    budget = paced(40, 40)
    for _ in range(3):
        budget.tried(16, 1, 5 * STEP_S)
    for _ in range(5):
        budget.begin()
        assert budget.size(15) == 1
    for _ in range(2000):
        budget.stepped(STEP_S)
    assert budget.size(15) == 16


@pytest.mark.parametrize("length", [64, 128, 512])
@pytest.mark.parametrize(
    "costs",
    [{4: 2.6, 8: 3.5, 16: 5.0}, {4: 2.4, 8: 4.2, 16: 7.6}, {4: 3.1, 8: 5.7, 16: 10.8}],
    ids=["two threads", "one thread", "one thread, Q4_1"],
)
def test_drafts_that_look_good_and_are_wrong_cost_an_answer_little(
    length: int, costs: dict[int, float]
) -> None:
    budget = paced(200, 200)
    budget.begin()
    spent, tokens = 0.0, 0
    while tokens < length:
        size = budget.size(15)
        if size == 1:
            budget.stepped(STEP_S)
            budget.saw(right=True)
            spent += 1
        else:
            cost = costs[size]
            budget.tried(size, 1, cost * STEP_S)
            budget.saw(right=False)
            spent += cost
        tokens += 1
    assert spent / length <= 1.01 + 2.6 / length


def test_the_step_after_a_batch_is_paid_for_and_does_not_count_as_the_usual_one() -> None:
    usual, slow = paced(200, 200), paced(200, 200)
    for budget, after in ((usual, STEP_S), (slow, 1.9 * STEP_S)):
        for _ in range(4):
            budget.tried(4, 3, 3.0 * STEP_S)
            budget.stepped(after)
    assert usual.size(15) > 1
    assert slow.size(15) == 1
