"""Times of the day for scripts/board_tools, as clocks, timetables and people tell them.

A time is what somebody says and what it means as `HH:MM`. Without am, pm or a part of the day an
hour is read as it stands.
"""

import random
from typing import Any

from .words import in_words

Value = tuple[str, Any]
"""What a slot says, and what it means."""


def drawn_time(draw: random.Random) -> Value:
    """Return a time as somebody says it, and as `HH:MM`."""
    hour = draw.randint(0, 23)
    minute = draw.choice((0, 0, 0, 0, 15, 30, 30, 45, 5, 10, 20, 50, draw.randint(1, 59)))
    forms = (
        *(_digits, _digits, _am_pm, _am_pm, _spoken, _spoken, _day_part, _day_part, _bare, _named),
        *(_worded, _worded, _before_or_after, _before_or_after, _face_am_pm, _at_night, _soldiers),
    )
    return draw.choice(forms)(draw, hour, minute)


def _digits(draw: random.Random, hour: int, minute: int) -> Value:
    shown = draw.choice(("{:02}:{:02}", "{}:{:02}", "{:02}:{:02}", "{}.{:02}", "{}h{:02}"))
    return shown.format(hour, minute), f"{hour:02}:{minute:02}"


def _am_pm(draw: random.Random, hour: int, minute: int) -> Value:
    half = "am" if hour < 12 else "pm"
    shown = (hour % 12) or 12
    words = draw.random() < 0.25
    text = in_words(shown) if words else str(shown)
    if minute:
        mark = draw.choice("::.")
        text = f"{text} {in_words(minute)}" if words else f"{text}{mark}{minute:02}"
    mark = draw.choice((f" {half}", half if not words else f" {half}", f" {half[0]}.m."))
    return text + mark, f"{hour:02}:{minute:02}"


def _part_of_day(hour: int) -> str:
    """Return the words that tell the hours of the clock's two rounds apart."""
    if hour < 12:
        return "in the morning"
    return "in the afternoon" if hour < 18 else "in the evening"


def _clock(draw: random.Random, hour: int, minute: int) -> "tuple[str, int, int]":
    """Return a time on the face of a clock, in words, and what it means on 24 hours."""
    near = (hour % 12) or 12
    following = (near % 12) + 1
    here, there = in_words(near), in_words(following)
    if draw.random() < 0.3:
        here, there = str(near), str(following)
    minute = draw.choice((0, 5, 10, 15, 15, 20, 30, 30, 45, 45, 50, 55))
    if minute == 0:
        return draw.choice((here, f"{here} o'clock")), hour, 0
    if minute == 30:
        return f"half past {here}", hour, 30
    if minute <= 20:
        said = draw.choice(("quarter", "a quarter")) if minute == 15 else in_words(minute)
        return f"{said} past {here}", hour, minute
    said = draw.choice(("quarter", "a quarter")) if minute == 45 else in_words(60 - minute)
    return f"{said} to {there}", hour, minute


def _spoken(draw: random.Random, hour: int, minute: int) -> Value:
    # Without am or pm an hour is read as it stands: one to twelve.
    hour = draw.randint(1, 11)
    text, hour, minute = _clock(draw, hour, minute)
    return text, f"{hour:02}:{minute:02}"


def _day_part(draw: random.Random, hour: int, minute: int) -> Value:
    hour = draw.choice([*range(1, 11), *range(13, 23), *range(13, 23)])
    text, hour, minute = _clock(draw, hour, minute)
    return f"{text} {_part_of_day(hour)}", f"{hour:02}:{minute:02}"


def _bare(draw: random.Random, hour: int, minute: int) -> Value:
    hour = draw.randint(1, 23)
    return draw.choice((str(hour), f"{hour} o'clock", f"{hour} sharp")), f"{hour:02}:00"


def _worded(draw: random.Random, hour: int, minute: int) -> Value:
    """Return hours and minutes as a timetable is read out: `seven forty in the evening`."""
    minute = minute if minute >= 10 else draw.choice((10, 15, 20, 30, 40, 45, 50))
    dice = draw.random()
    if dice < 0.5:
        hour = draw.randint(1, 23)
        return f"{in_words(hour)} {in_words(minute)}", f"{hour:02}:{minute:02}"
    hour = draw.choice([*range(1, 12), *range(13, 23)])
    end = _part_of_day(hour) if dice < 0.75 else ("am" if hour < 12 else "pm")
    return f"{in_words((hour % 12) or 12)} {in_words(minute)} {end}", f"{hour:02}:{minute:02}"


def _before_or_after(draw: random.Random, hour: int, minute: int) -> Value:
    """Return minutes before or after an hour, noon or midnight."""
    minutes = draw.choice((1, 2, 5, 5, 7, 10, 10, 15, 20, 25))
    near, name = draw.choice(
        ((12, "noon"), (0, "midnight"), *((each, "") for each in range(2, 12)))
    )
    name = name or draw.choice((in_words(near), str(near)))
    said = draw.choice((in_words(minutes), str(minutes)))
    if minutes % 5 or draw.random() < 0.5:
        said += " minutes" if minutes > 1 else " minute"
    if minutes == 15:
        said = draw.choice(("a quarter", "quarter"))
    if draw.random() < 0.5:
        return f"{said} {draw.choice(('past', 'after'))} {name}", f"{near:02}:{minutes:02}"
    return f"{said} {draw.choice(('to', 'before'))} {name}", f"{(near - 1) % 24:02}:{60 - minutes}"


def _face_am_pm(draw: random.Random, hour: int, minute: int) -> Value:
    """Return a time on the face of a clock, with am or pm."""
    hour = draw.choice([*range(1, 11), *range(13, 23)])
    text, hour, minute = _clock(draw, hour, minute)
    half = "am" if hour < 12 else "pm"
    return f"{text} {draw.choice((half, f'{half[0]}.m.'))}", f"{hour:02}:{minute:02}"


def _at_night(draw: random.Random, hour: int, minute: int) -> Value:
    hour = draw.choice((1, 2, 3, 4, 20, 21, 21, 22, 22, 23, 23))
    minute = draw.choice((0, 0, 0, 15, 30))
    shown = in_words(hour % 12) if draw.random() < 0.5 else str(hour % 12)
    text = {0: shown, 15: f"quarter past {shown}", 30: f"half past {shown}"}[minute]
    ends = ("at night",) if hour > 12 else ("at night", "in the early morning", "in the night")
    return f"{text} {draw.choice(ends)}", f"{hour:02}:{minute:02}"


def _soldiers(draw: random.Random, hour: int, minute: int) -> Value:
    said = draw.choice(("{:02}{:02}", "{:02}{:02} hours", "{:02}{:02}h", "{:02}:{:02} hours"))
    return said.format(hour, minute), f"{hour:02}:{minute:02}"


def _named(draw: random.Random, hour: int, minute: int) -> Value:
    return draw.choice(
        (
            ("noon", "12:00"),
            ("midnight", "00:00"),
            ("12 pm", "12:00"),
            ("12 am", "00:00"),
            ("midday", "12:00"),
            ("noon sharp", "12:00"),
            ("12 noon", "12:00"),
            ("twelve noon", "12:00"),
            ("exactly midnight", "00:00"),
            ("midnight sharp", "00:00"),
        )
    )
