"""Values are told in many ways and mean one thing."""

import random
import re

import pytest

from scripts.board_tools.slots import Slots, drawn_time, in_words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (20, "twenty"), (99, "ninety-nine"), (100, "a hundred")],
)
def test_numbers_in_words(number: int, words: str) -> None:
    assert in_words(number) == words


def test_times_mean_what_people_mean_by_them() -> None:
    draw = random.Random(1)
    told = dict(drawn_time(draw) for _ in range(20_000))
    assert all(re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", each) for each in told.values())
    assert told["half past seven"] == "07:30"
    assert told["quarter to eight in the evening"] == "19:45"
    assert told["ten past three in the afternoon"] == "15:10"
    assert (told["noon"], told["midnight"]) == ("12:00", "00:00")
    assert (told["12 am"], told["7 pm"], told["7 p.m."]) == ("00:00", "19:00", "19:00")
    assert told["seven"] == "07:00"


def test_pins_exist_and_two_of_them_differ() -> None:
    for seed in range(300):
        slots = Slots(random.Random(seed))
        (_, (pin, numbering)), (_, other) = slots["pin"], slots["pin2"]
        assert (0 if numbering == "bcm" else 1) <= pin <= (27 if numbering == "bcm" else 40)
        assert other != (pin, numbering)
        assert slots["pin"] is slots["pin"], "a slot that stands there twice has one value"


def test_bad_values_are_bad() -> None:
    for seed in range(200):
        slots = Slots(random.Random(seed))
        assert int(slots["badpin"][0]) > 27
        assert not 1 <= int(slots["badphys"][0]) <= 40
        share = re.match("-?[0-9]+", slots["badpct"][0])
        assert share is not None
        assert not 0 <= int(share[0]) <= 100
