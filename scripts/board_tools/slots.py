"""Values that stand in a wording for a board's tools: pins, speeds, times, networks.

Each is what somebody says and what it means: `("half past seven", "07:30")`. Numbers stand as
digits or in words, and times as clocks, timetables and people tell them.
"""

import random
from pathlib import Path
from typing import Any

Value = tuple[str, Any]
"""What a slot says, and what it means."""


def read_lists(file: Path) -> dict[str, list[str]]:
    """Return the lists of a file, one a line: `name: word | word`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    named = [line.partition(": ") for line in lines if line and not line.startswith("#")]
    return {name: words.split(" | ") for name, _, words in named}


LISTS = read_lists(Path(__file__).with_name("lists.txt"))


def in_words(number: int) -> str:
    """Return a number from 0 to 100 in words."""
    if number == 100:
        return "a hundred"
    if number < 20:
        return LISTS["units"][number]
    tens, units = divmod(number, 10)
    return LISTS["tens"][tens - 2] + (f"-{LISTS['units'][units]}" if units else "")


class Slots:
    """Values for the slots of one wording; a slot that stands there twice has one value."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._drawn: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        if name not in self._drawn:
            plain = {"on2": "on", "pin2": "pin"}.get(name, name)
            value = getattr(self, f"_{plain}")()
            while name == "pin2" and value[1] == self["pin"][1]:
                value = self._pin()
            self._drawn[name] = value
        return self._drawn[name]

    def _number(self, number: int, share: float = 0.12) -> str:
        return in_words(number) if self._draw.random() < share else str(number)

    def _pin(self) -> Value:
        if self._draw.random() < 0.65:
            number = self._draw.randint(0, 27)
            return self._draw.choice(LISTS["bcm"]).format(self._number(number)), (number, "bcm")
        number = self._draw.randint(1, 40)
        return self._draw.choice(LISTS["board"]).format(self._number(number)), (number, "board")

    def _bcm(self) -> Value:
        number = self._draw.randint(0, 27)
        return self._number(number), (number, "bcm")

    def _bcmonly(self) -> Value:
        return self._bcm()

    def _pins(self) -> Value:
        last, forms, numbering = self._draw.choice(
            (
                (27, LISTS["pairs_bcm"], "bcm"),
                (27, LISTS["pairs_bcm"], "bcm"),
                (40, LISTS["pairs_board"], "board"),
            )
        )
        one, two = self._draw.sample(range(numbering == "board", last + 1), 2)
        share = 0.1 if self._draw.random() < 0.3 else 0.0
        text = self._draw.choice(forms).format(self._number(one, share), self._number(two, share))
        return text, ((one, numbering), (two, numbering))

    def _badpin(self) -> Value:
        number = self._draw.choice([*range(41, 100), *range(28, 60), 100, 128, 200, 255, 999, 1000])
        return str(number), None

    def _badphys(self) -> Value:
        return str(self._draw.choice([*range(41, 100), 0, 120, 200, 400])), None

    def _on(self) -> Value:
        return self._draw.choice((("on", True), ("off", False)))

    def _level(self) -> Value:
        return self._draw.choice(
            (("high", True), ("low", False)) * 3
            + (("on", True), ("off", False), ("1", True), ("0", False), ("HIGH", True))
        )

    def _bit(self) -> Value:
        return self._draw.choice((("1", True), ("0", False), ("one", True), ("zero", False)))

    def _mode(self) -> Value:
        return self._draw.choice([(each, each) for each in ("on", "off", "blink")])

    def _device(self) -> Value:
        return self._draw.choice(LISTS["devices"]), None

    def _sensor(self) -> Value:
        return self._draw.choice(LISTS["sensors"]), None

    def _fn(self) -> Value:
        return self._draw.choice(LISTS["functions"]), None

    def _iface(self) -> Value:
        face = self._draw.choice(("wifi", "ethernet"))
        return self._draw.choice(LISTS[f"over_{face}"]), face

    def _ifadj(self) -> Value:
        face = self._draw.choice(("wifi", "ethernet"))
        return self._draw.choice(LISTS[face]), face

    def _pct(self) -> Value:
        named = (
            ("half", 50),
            ("half speed", 50),
            ("a third", 33),
            ("a quarter", 25),
            ("three quarters", 75),
            ("full speed", 100),
            ("full power", 100),
            ("the maximum", 100),
            ("max", 100),
            ("a tenth", 10),
            ("a fifth", 20),
        )
        if self._draw.random() < 0.25:
            return self._draw.choice(named)
        tens = self._draw.random() < 0.4
        number = self._draw.randint(0, 10) * 10 if tens else self._draw.randint(0, 100)
        ends = (" percent", "%", " %", "", " per cent", " percent", "")
        return self._number(number, 0.3) + self._draw.choice(ends), number

    def _fastpct(self) -> Value:
        return self._draw.choice(
            (
                ("full speed", 100),
                ("full power", 100),
                ("top speed", 100),
                ("half speed", 50),
                ("half power", 50),
                ("a quarter of its speed", 25),
                ("a third of its power", 33),
                ("maximum speed", 100),
            )
        )

    def _badpct(self) -> Value:
        number = self._draw.choice(
            [*range(101, 260, 3), 110, 120, 150, 200, 300, 500, 999, -5, -20]
        )
        return f"{number}{self._draw.choice((' percent', '%', ' %', ''))}", None

    def _rpm(self) -> Value:
        number = self._draw.choice((800, 1000, 1200, 1500, 2000, 2500, 3000, 5000))
        return f"{number} {self._draw.choice(('rpm', 'revolutions', 'turns a minute'))}", None

    def _time(self) -> Value:
        return drawn_time(self._draw)

    def _badtime(self) -> Value:
        hour, minute = self._draw.randint(25, 99), self._draw.randint(60, 99)
        return self._draw.choice(
            (
                (f"{hour}:00", None),
                (f"{hour} o'clock", None),
                (f"{hour}:30", None),
                (f"{self._draw.randint(0, 23)}:{minute}", None),
                (f"{self._draw.randint(13, 20)} pm", None),
                (f"25:{self._draw.randint(10, 59)}", None),
                ("24:30", None),
            )
        )


def drawn_time(draw: random.Random) -> Value:
    """Return a time as somebody says it, and as `HH:MM`."""
    hour = draw.randint(0, 23)
    minute = draw.choice((0, 0, 0, 0, 15, 30, 30, 45, 5, 10, 20, 50, draw.randint(1, 59)))
    forms = (_digits, _digits, _am_pm, _am_pm, _am_pm, _spoken, _spoken, _day_part, _bare, _named)
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
        text = f"{text} {in_words(minute)}" if words else f"{text}:{minute:02}"
    mark = draw.choice((f" {half}", half if not words else f" {half}", f" {half[0]}.m."))
    return text + mark, f"{hour:02}:{minute:02}"


def _part_of_day(hour: int) -> str:
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


def _named(draw: random.Random, hour: int, minute: int) -> Value:
    return draw.choice(
        (
            ("noon", "12:00"),
            ("midnight", "00:00"),
            ("12 pm", "12:00"),
            ("12 am", "00:00"),
            ("midday", "12:00"),
        )
    )
