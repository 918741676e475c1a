"""A wish is told again with other values, and the values that are right follow the words."""

import random

import pytest

from scripts.board_tools.authors import Answer, Call, Line, learned_lines
from scripts.board_tools.doubts import doubts
from scripts.board_tools.renewed import renewed
from scripts.board_tools.words import in_words


def again(wish: str, *calls: Call) -> Line | None:
    return renewed(Line("a.txt:1", wish, list(calls)), random.Random(1))


def test_a_pin_is_exchanged_in_digits_and_in_words() -> None:
    for said in ("17", "seventeen"):
        line = again(
            f"lamp on gpio {said}", ("gpio_write", {"pin": 17, "numbering": "bcm", "on": True})
        )
        assert line
        ((_, arguments),) = line.answer
        pin = arguments["pin"]
        assert pin != 17
        assert line.wish == f"lamp on gpio {pin if said == '17' else in_words(pin)}"
        assert arguments == {"pin": pin, "numbering": "bcm", "on": True}


def test_an_hour_is_exchanged_in_its_half_of_the_day() -> None:
    line = again("restart at half past eight pm", ("reboot_at", {"time": "20:30"}))
    assert line
    ((_, arguments),) = line.answer
    hour, minute = arguments["time"].split(":")
    assert minute == "30"
    assert 16 <= int(hour) <= 23
    assert line.wish == f"restart at half past {in_words(int(hour) - 12)} pm"


def test_wifi_and_ethernet_are_exchanged() -> None:
    line = again("your wifi ip?", ("network_address", {"interface": "wifi"}))
    assert line
    assert line.wish == "your ethernet ip?"
    assert line.answer == [("network_address", {"interface": "ethernet"})]


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        ("how hot?", [("cpu_temperature", {})]),
        ("hello", "Hello!"),
        ("fan off", [("fan_speed", {"percent": 0})]),
        ("fan half", [("fan_speed", {"percent": 50})]),
        ("pin 4, I said 4", [("gpio_read", {"pin": 4, "numbering": "bcm"})]),
        ("restart at nine in the evening", [("reboot_at", {"time": "21:00"})]),
        ("at twenty hundred, so 20:00", [("reboot_at", {"time": "20:00"})]),
        ("all addresses", [("network_address", {"interface": "all"})]),
    ],
)
def test_what_is_not_sure_stays(wish: str, answer: Answer) -> None:
    line = Line("a.txt:1", wish, answer)
    other = renewed(line, random.Random(1))
    assert other is None or other == line


def test_no_value_of_a_renewed_line_is_doubted_more_than_before() -> None:
    draw = random.Random(3)
    pairs = [(line, renewed(line, draw)) for line in learned_lines()]
    again_said = [(line, other) for line, other in pairs if other]
    assert len(again_said) >= 300
    for line, other in again_said:
        assert len(list(doubts(other))) <= len(list(doubts(line))), (line, other)
