"""Times are told in many ways and mean one thing."""

import random
import re

import pytest

from scripts.board_tools.times import drawn_time


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    draw = random.Random(1)
    return dict(drawn_time(draw) for _ in range(60_000))


def test_every_time_is_one_of_the_day(told: dict[str, str]) -> None:
    assert all(re.fullmatch("([01][0-9]|2[0-3]):[0-5][0-9]", each) for each in told.values())


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("half past seven", "07:30"),
        ("quarter to eight in the evening", "19:45"),
        ("ten past three in the afternoon", "15:10"),
        ("noon", "12:00"),
        ("midnight", "00:00"),
        ("12 am", "00:00"),
        ("7 pm", "19:00"),
        ("7 p.m.", "19:00"),
        ("seven", "07:00"),
        ("seven forty", "07:40"),
        ("seven forty pm", "19:40"),
        ("five to midnight", "23:55"),
        ("ten minutes before noon", "11:50"),
        ("10 after 4", "04:10"),
        ("half past six p.m.", "18:30"),
        ("quarter to nine am", "08:45"),
        ("eleven at night", "23:00"),
        ("3 in the early morning", "03:00"),
        ("0700 hours", "07:00"),
    ],
)
def test_times_mean_what_people_mean_by_them(told: dict[str, str], said: str, meant: str) -> None:
    assert told[said] == meant


def test_no_time_means_two_things() -> None:
    meant: dict[str, set[str]] = {}
    draw = random.Random(2)
    for text, time in (drawn_time(draw) for _ in range(60_000)):
        meant.setdefault(text, set()).add(time)
    assert [text for text, times in meant.items() if len(times) > 1] == []
