"""A value that nobody says is doubted, one that is said in whatever form is not."""

import pytest

from scripts.board_tools.authors import Answer, Line
from scripts.board_tools.doubts import doubts, is_time_said, said_numbers


def doubted(wish: str, answer: Answer) -> list[str]:
    return list(doubts(Line("a.txt:1", wish, answer)))


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        ("fan to forty-five", [("fan_speed", {"percent": 45})]),
        ("fan at three quarters", [("fan_speed", {"percent": 75})]),
        ("no fan", [("fan_speed", {"percent": 0})]),
        (
            "twenty-first header pin up",
            [("gpio_write", {"pin": 21, "numbering": "board", "on": True})],
        ),
        ("your address on the cable", [("network_address", {"interface": "ethernet"})]),
        ("flash your own light", [("set_led", {"mode": "blink"})]),
        ("what is pin 4 for?", "It is a pin of the header."),
    ],
)
def test_what_is_said_is_not_doubted(wish: str, answer: Answer) -> None:
    assert doubted(wish, answer) == []


@pytest.mark.parametrize(
    ("wish", "answer", "doubt"),
    [
        ("fan to 54", [("fan_speed", {"percent": 45})], "fan_speed: percent=45 is not said"),
        (
            "pin 4 on",
            [("gpio_write", {"pin": 5, "numbering": "bcm", "on": True})],
            "gpio_write: pin=5 is not said",
        ),
        (
            "read pin 4",
            [("gpio_read", {"pin": 4, "numbering": "board"})],
            "gpio_read: numbering=board is not said",
        ),
        (
            "read header pin 4",
            [("gpio_read", {"pin": 4, "numbering": "bcm"})],
            "no pin is the board's",
        ),
        ("turn pin 4 on", "Gladly.", "a call may be due"),
    ],
)
def test_what_nobody_says_is_doubted(wish: str, answer: Answer, doubt: str) -> None:
    assert doubted(wish, answer) == [doubt]


def test_numbers_are_read_in_digits_and_in_words() -> None:
    assert said_numbers("Pin 17, then twenty-two or the third") == {17, 22, 3}


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("07:30", "at half past seven"),
        ("18:45", "quarter to seven pm"),
        ("04:40", "twenty to five in the morning"),
        ("12:00", "at noon"),
        ("23:59", "one minute to midnight"),
        ("03:30", "reboot 0330"),
        ("now", "right away"),
    ],
)
def test_a_time_is_said_in_many_ways(time: str, text: str) -> None:
    assert is_time_said(time, text)


@pytest.mark.parametrize(
    ("time", "text"), [("07:30", "at seven"), ("09:00", "half past nine"), ("now", "at 7")]
)
def test_another_time_is_not_said(time: str, text: str) -> None:
    assert not is_time_said(time, text)
