"""Says which labels of authors' lines may be wrong: values that nobody says, and missing calls.

A doubt is no error: somebody reads the line and decides.
"""

import re
from collections.abc import Iterator
from typing import Any

from .authors import Line
from .words import in_words, ordinal

_IN_WORDS = {in_words(number): number for number in range(101)}
_IN_WORDS |= {ordinal(number, words=True): number for number in range(1, 41)}
_IN_WORDS |= {text.replace("-", " "): number for text, number in _IN_WORDS.items()}
_IN_WORDS |= {"nought": 0, "nil": 0, "one hundred": 100, "hundred": 100, "dozen": 12}
_NUMBER = re.compile(
    r"\d+|" + "|".join(rf"\b{each}\b" for each in sorted(_IN_WORDS, key=len, reverse=True))
)
_SHARES = {
    50: "half|halfway|middle|fifty",
    25: "quarter",
    75: "three.quarters|three.fourths",
    33: "third",
    20: "fifth",
    40: "two.fifths",
    60: "three.fifths",
    80: "four.fifths",
    10: "tenth",
    30: "three.tenths",
    70: "seven.tenths",
    90: "nine.tenths",
    100: "full|max|flat out|top|everything|all the way|whack|throttle|fast as|hard as|blast|tilt",
    0: "off|stop|kill|zero|silen|quiet|halt|shut|rest|still|no fan|cut|dead|spin down|none|idle",
}
_BOARD = re.compile(r"physical|phys\b|header|hdr|board.?(pin|number|position)|\bposition|counted")
_INTERFACES = {
    "wifi": "wi.?fi|wireless|wlan|over the air|radio|aerial|antenna",
    "ethernet": r"ethernet|\beth|\blan\b|wire|cable|plug|rj.?45|copper|cord|patch",
    "all": "all|every|both|each|any|whole|complete|full",
}
_MODES = {
    "on": r"\bon\b|light|lit|glow|shine|burn|solid|steady|illuminat|bright",
    "off": r"\boff\b|dark|out|dim|kill|black|douse|extinguish|shut",
    "blink": "blink|flash|flicker|wink|pulse|strobe",
}
_NOW = "now|immediate|once|right away|straight away|instant|this (second|minute|moment)|asap"
_NEGATED = re.compile(r"\bnot\b|n't\b|\bnt\b|dont|never|\bno\b|if\b|would|what|why|how|when|which")
_WHOLE = re.compile(
    r"(gpio|pin|bcm)\s?#?\d+\b.*\b(on|off|high|low|up|down)\b|\bfan\b.*\d+\s?(%|percent)|"
    r"\b(reboot|restart)\b.*\b(now|noon|midnight|\d+:\d\d|\d+ ?[ap]m)\b"
)


def said_numbers(text: str) -> set[int]:
    """Return the numbers that stand in a text, in digits or in words."""
    return {
        int(found) if found.isdigit() else _IN_WORDS[found]
        for found in _NUMBER.findall(text.casefold())
    }


def doubts(line: Line) -> Iterator[str]:
    """Yield what may be wrong with a line."""
    text = line.wish.casefold()
    if isinstance(line.answer, str):
        if _WHOLE.search(text) and not _NEGATED.search(text) and "no " not in line.answer:
            yield "a call may be due"
        return
    for name, arguments in line.answer:
        for key, value in arguments.items():
            if not _is_said(key, value, text):
                yield f"{name}: {key}={value} is not said"
    numberings = {arguments.get("numbering") for _, arguments in line.answer} - {None}
    if numberings and _BOARD.search(text) and "board" not in numberings:
        yield "no pin is the board's"


def _is_said(key: str, value: Any, text: str) -> bool:
    if key == "pin":
        return value in said_numbers(text)
    if key == "numbering":
        return value == "bcm" or bool(_BOARD.search(text))
    if key == "percent":
        share = _SHARES.get(value)
        return value in said_numbers(text) or bool(share and re.search(share, text))
    if key == "time":
        return is_time_said(value, text)
    if key == "interface":
        return bool(re.search(_INTERFACES[value], text))
    if key == "mode":
        return bool(re.search(_MODES[value], text))
    return True


def is_time_said(time: str, text: str) -> bool:
    """Return whether the hour and the minutes of `HH:MM`, or `now`, may be what a text says."""
    if time == "now":
        return bool(re.search(_NOW, text)) or not said_numbers(text)
    hour, minute = map(int, time.split(":"))
    numbers = said_numbers(text)
    # 0330 is one number.
    numbers |= {int(part) for pair in re.findall(r"(\d\d)(\d\d)", text) for part in pair}
    to = re.search(r"\b(to|before|til|till|of)\b", text) is not None
    hours = {hour, hour % 12, hour % 12 or 12} | ({hour + 1, hour % 12 + 1} if to else set())
    named = {12: "noon|midday", 0: "midnight"}
    near = {hour, (hour + 1) % 24} if to else {hour}
    is_hour = bool(hours & numbers) or any(
        re.search(named[each], text) for each in near & named.keys()
    )
    is_minute = (
        minute in numbers
        or (minute == 0 and not {30, 15, 45} & numbers and not re.search("half|quarter", text))
        or (minute == 30 and "half" in text)
        or (minute in (15, 45) and "quarter" in text)
        or (to and 60 - minute in numbers)
    )
    return is_hour and is_minute
