"""Tells an author's wish again with other values: another pin, speed, hour or interface.

The words around a value stay, so that a model learns to copy what is said. Only values that stand
in the wish exactly once, in a form that is sure, are exchanged.
"""

import random
import re
from typing import Any

from .authors import Line
from .doubts import said_numbers
from .words import in_words

_PART_OF_DAY = re.compile(
    r"noon|midnight|midday|night|evening|lunch|dinner|supper|tea|breakfast|dusk|dawn|sun|bed|dark|"
    r"light|after(?!noon)|work|school"
)
_FACES = (("wifi", "ethernet"), ("wi-fi", "ethernet"), ("wlan", "lan"), ("wireless", "wired"))


def renewed(line: Line, draw: random.Random) -> Line | None:
    """Return the line with each of its values exchanged; None where one is not surely said."""
    if isinstance(line.answer, str) or not any(arguments for _, arguments in line.answer):
        return None
    wish, calls, changed = line.wish, [], False
    for name, arguments in line.answer:
        exchanged = _exchanged(wish, name, arguments, draw)
        if exchanged is None:
            return None
        wish, new = exchanged
        changed = changed or new != arguments
        calls.append((name, new))
    return Line(line.place, wish, calls) if changed else None


def _exchanged(
    wish: str, name: str, arguments: dict[str, Any], draw: random.Random
) -> tuple[str, dict[str, Any]] | None:
    """Return a wish and one call's arguments with another value; None where that is not sure."""
    if name in ("gpio_write", "gpio_read"):
        first, last = (0, 27) if arguments["numbering"] == "bcm" else (1, 40)
        return _other_number(wish, arguments, "pin", range(first, last + 1), draw)
    if name == "fan_speed" and arguments["percent"] not in (0, 100):
        return _other_number(wish, arguments, "percent", range(1, 100), draw)
    if name == "reboot_at" and arguments["time"] != "now":
        return _other_time(wish, arguments["time"], draw)
    if name == "network_address" and arguments["interface"] != "all":
        return _other_face(wish, arguments["interface"])
    return wish, arguments


def _other_number(
    wish: str, arguments: dict[str, Any], key: str, values: range, draw: random.Random
) -> tuple[str, dict[str, Any]] | None:
    old = arguments[key]
    said = said_numbers(wish)
    new = draw.choice([each for each in values if each not in said])
    digits = re.compile(rf"(?<![\d.:,-]){old}(?![\d]|[.:,]\d|st\b|nd\b|rd\b|th\b)")
    words = re.compile(rf"\b{in_words(old)}\b".replace("-", "[- ]"), re.IGNORECASE)
    for pattern, text in ((digits, str(new)), (words, in_words(new))):
        if len(pattern.findall(wish)) == 1:
            return pattern.sub(text, wish), {**arguments, key: new}
    return None


def _other_time(wish: str, time: str, draw: random.Random) -> tuple[str, dict[str, Any]] | None:
    hour, minute = time.split(":")
    others = said_numbers(wish) - {int(hour), int(minute), int(hour + minute)}
    clock = re.compile(rf"(?<!\d)0?{int(hour)}([:.h]?){minute}(?!\d)(?! ?[ap]\.?m)", re.IGNORECASE)
    found = clock.findall(wish)
    is_whole = len(found) == 1 and not others and not _PART_OF_DAY.search(wish.casefold())
    if is_whole and "morning" not in wish and "afternoon" not in wish:
        new = f"{draw.randrange(24):02}", f"{draw.randrange(60):02}"
        return clock.sub(rf"{new[0]}\g<1>{new[1]}", wish), {"time": ":".join(new)}
    return _other_hour(wish, int(hour), minute, draw)


def _other_hour(
    wish: str, hour: int, minute: str, draw: random.Random
) -> tuple[str, dict[str, Any]] | None:
    """Return a wish with another hour on the clock's face, in the same half of the day."""
    text = wish.casefold().replace("afternoon", "pm").replace("o'clock", "")
    to = bool(re.search(r"\b(to|before|til|till|of)\b", text)) and int(minute) > 30
    face = (hour + to) % 12
    if not face or _PART_OF_DAY.search(text):
        return None
    pattern = re.compile(
        rf"(?<![\d:.]){face}(?!\d|[.,]\d|[ -]minutes?)|\b{in_words(face)}\b(?!-| minutes?)",
        re.IGNORECASE,
    )
    found = pattern.findall(wish)
    if len(found) != 1:
        return None
    # In the afternoon there is no nine o'clock, and in the morning no one.
    faces = range(2, 6) if "afternoon" in wish.casefold() else range(4, 12)
    if face not in faces:
        return None
    new = draw.choice([each for each in faces if each != face])
    said = str(new) if found[0].isdigit() else in_words(new)
    return pattern.sub(said, wish), {"time": f"{hour + new - face:02}:{minute}"}


def _other_face(wish: str, face: str) -> tuple[str, dict[str, Any]] | None:
    other = "ethernet" if face == "wifi" else "wifi"
    for pair in _FACES:
        old, new = pair if face == "wifi" else pair[::-1]
        pattern = re.compile(rf"(?<![a-z-]){old}(?![a-z0-9-])", re.IGNORECASE)
        if len(pattern.findall(wish)) == 1 and not re.search(
            "cable|air|cord|plug|rj|copper|roof|attic", wish.casefold()
        ):
            return pattern.sub(new, wish), {"interface": other}
    return None
