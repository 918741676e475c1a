"""Values are told in many ways and mean one thing."""

import random
import re

from scripts.board_tools.slots import SHARES, SPOKEN, Slots


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


def test_a_share_means_its_percent_and_fractions_come_first() -> None:
    shares = dict(SHARES)
    assert (shares["a third"], shares["two fifths"], shares["nine tenths"]) == (33, 40, 90)
    assert all(0 <= each <= 100 for each in shares.values())
    assert SHARES[SPOKEN - 1][0] == "nine tenths"
    assert all(text.split()[-1] not in ("speed", "power") for text, _ in SHARES[:SPOKEN])


def test_a_corrected_value_is_another_one() -> None:
    for seed in range(300):
        slots = Slots(random.Random(seed))
        assert slots["pct"][1] != slots["pct2"][1]
        assert slots["time"][1] != slots["time2"][1]


def test_a_physical_pin_is_told_as_one() -> None:
    for seed in range(300):
        text, (pin, numbering) = Slots(random.Random(seed))["physical"]
        assert numbering == "board"
        assert 1 <= pin <= 40
        assert re.search("physical|header|board", text), text
