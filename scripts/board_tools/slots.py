"""Values that stand in a wording for a board's tools: pins, speeds, times, networks.

Each is what somebody says and what it means: `("half past seven", "07:30")`. Numbers stand as
digits or in words, and times as clocks, timetables and people tell them.
"""

import random

from .times import Value, drawn_time
from .words import LISTS, in_words, ordinal

SHARES = (
    *(("half", 50), ("one half", 50), ("a third", 33), ("one third", 33), ("a quarter", 25)),
    *(("one quarter", 25), ("three quarters", 75), ("a fifth", 20), ("one fifth", 20)),
    *(("two fifths", 40), ("three fifths", 60), ("four fifths", 80), ("a tenth", 10)),
    *(("one tenth", 10), ("three tenths", 30), ("seven tenths", 70), ("nine tenths", 90)),
    *(("half speed", 50), ("half power", 50), ("full speed", 100), ("full power", 100)),
    *(("the maximum", 100), ("max", 100), ("a hundred", 100), ("one hundred percent", 100)),
    *(("zero", 0), ("a hundred per cent", 100), ("nought percent", 0), ("the full 100", 100)),
)
"""Shares of the fan's speed as they are said, and in percent."""
SPOKEN = 17
"""How many of them are fractions."""
FASTEST = (
    *(("full speed", 100), ("full power", 100), ("top speed", 100), ("half speed", 50)),
    *(("half power", 50), ("maximum speed", 100), ("full blast", 100), ("full tilt", 100)),
    *(("full throttle", 100), ("its maximum", 100), ("maximum power", 100)),
)


class Slots:
    """Values for the slots of one wording; a slot that stands there twice has one value."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._drawn: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        if name not in self._drawn:
            plain = name.removesuffix("2")
            value = getattr(self, f"_{plain}")()
            while plain != name != "on2" and value[1] == self[plain][1]:
                value = getattr(self, f"_{plain}")()
            self._drawn[name] = value
        return self._drawn[name]

    def _number(self, number: int, share: float = 0.12) -> str:
        return in_words(number) if self._draw.random() < share else str(number)

    def _pin(self) -> Value:
        if self._draw.random() < 0.4:
            return self._physical()
        number = self._draw.randint(0, 27)
        return self._draw.choice(LISTS["bcm"]).format(self._number(number)), (number, "bcm")

    def _physical(self) -> Value:
        number = self._draw.randint(1, 40)
        if self._draw.random() < 0.15:
            counted = ordinal(number, words=self._draw.random() < 0.5)
            return self._draw.choice(LISTS["nth"]).format(counted), (number, "board")
        return self._draw.choice(LISTS["board"]).format(self._number(number)), (number, "board")

    def _board(self) -> Value:
        number = self._draw.randint(1, 40)
        return self._number(number), (number, "board")

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
        if self._draw.random() < 0.35:
            return self._draw.choice(SHARES)
        tens = self._draw.random() < 0.4
        number = self._draw.randint(0, 10) * 10 if tens else self._draw.randint(0, 100)
        ends = (" percent", "%", " %", "", " per cent", " percent", "")
        return self._number(number, 0.3) + self._draw.choice(ends), number

    def _fastpct(self) -> Value:
        return self._draw.choice(FASTEST) if self._draw.random() < 0.4 else self._fast_share()

    def _fast_share(self) -> Value:
        text, number = self._draw.choice(SHARES[:SPOKEN])
        of = self._draw.choice(("of its speed", "of its power", "of full speed", "of full power"))
        return f"{text} {of}", number

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
