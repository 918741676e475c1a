"""Parts of llama.cpp's grammars (GBNF) for JSON: strings, numbers within bounds.

Standard library only.

The rule to keep: every text that such a part accepts is JSON, and all JSON readers read the same
value from it.
"""

import json
import math
from typing import Any

MAX_DIGITS = 16
"""Maximum digits of an integer, and before a decimal point."""
# Every double tells 15 to 17 digits apart.
_GREATEST = 10**MAX_DIGITS - 1
# `\\u` takes no half of a surrogate pair (D800 to DFFF): that is not text, and cannot be read back.
_CHARACTER = (
    r'[^"\\\x7f\x00-\x1f] | "\\" (["\\/bfnrt] | "u" '
    r"([0-9a-cA-CefEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}))"
)
_INTEGER = f'"-"? ("0" | [1-9] [0-9]{{0,{MAX_DIGITS - 1}}})'
BASE = {
    "ws": r'(" " | "\n" " "{0,12})?',
    "char": _CHARACTER,
    "string": r'"\"" char* "\""',
    "integer": _INTEGER,
    # Two digits of exponent: 1e999 would be read as infinity, which is no JSON any more.
    "number": f'{_INTEGER} ("." [0-9]{{1,15}})? ([eE] [-+]? [0-9]{{1,2}})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
"""Rules that every grammar has."""

_FRACTION = '("." [0-9]{1,15})?'
_ZEROS = '("." "0"{1,15})?'
_MORE_THAN_ZERO = '"." [0-9]{0,14} [1-9]'


def literal(value: Any) -> str:
    """Return the grammar part of one value, written as JSON."""
    text = json.dumps(value, ensure_ascii=False)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def times(least: int, most: "int | None") -> str:
    """Return the repetition of a part: `{low,high}`."""
    return f"{{{least},{'' if most is None else most}}}"


def integers(low: "int | None", high: "int | None") -> str:
    """Return the grammar part of the integers from `low` to `high`; empty if there is none.

    None means unbounded.
    """
    low = -_GREATEST if low is None else max(low, -_GREATEST)
    high = _GREATEST if high is None else min(high, _GREATEST)
    negative = _naturals(max(1, -high), -low)
    signed = [f'"-" ({negative})'] if negative else []
    return " | ".join(filter(None, [*signed, _naturals(max(0, low), high)]))


class Bounds:
    """Range of a number: two whole numbers, each included or excluded."""

    def __init__(
        self, low: "int | None", high: "int | None", *, low_out: bool, high_out: bool
    ) -> None:
        self.low = -_GREATEST if low is None else max(low, -_GREATEST)
        self.high = _GREATEST if high is None else min(high, _GREATEST)
        self.low_out = low_out
        self.high_out = high_out

    def piece(self) -> str:
        """Return the grammar part of the numbers in the range; empty if there is none."""
        sides = []
        if self.low < 0:
            near, out = (-self.high, self.high_out) if self.high <= 0 else (0, False)
            sides.append(('"-" ', _sizes(near, -self.low, near_out=out, far_out=self.low_out)))

        if self.high >= 0:
            near, out = (self.low, self.low_out) if self.low >= 0 else (0, False)
            sides.append(("", _sizes(near, self.high, near_out=out, far_out=self.high_out)))

        return " | ".join(f"{sign}({sizes})" for sign, sizes in sides if sizes)


def _sizes(near: int, far: int, *, near_out: bool, far_out: bool) -> str:
    """Return the grammar part of the unsigned numbers from `near` to `far`."""
    if near == far:
        return "" if near_out or far_out else f'"{near}" {_ZEROS}'

    first = f'"{near}" {_MORE_THAN_ZERO if near_out else _FRACTION}'
    between = _naturals(near + 1, far - 1)
    last = "" if far_out else f'"{far}" {_ZEROS}'
    return " | ".join(filter(None, [first, between and f"({between}) {_FRACTION}", last]))


def _naturals(low: int, high: int) -> str:
    """Return the grammar part of the non-negative integers from `low` to `high`.

    Empty if there is none.
    """
    if low > high:
        return ""

    lengths = range(len(str(low)), len(str(high)) + 1)
    least = [max(low, 10 ** (length - 1) if length > 1 else 0) for length in lengths]
    most = [min(high, 10**length - 1) for length in lengths]
    return " | ".join(
        digits_between(str(one), str(other)) for one, other in zip(least, most, strict=True)
    )


def digits_between(low: str, high: str) -> str:
    """Return the grammar part of the integers between two of the same length."""
    rest = len(low) - 1
    if low == high:
        return f'"{low}"'
    if not rest:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return f'"{low[0]}" ({digits_between(low[1:], high[1:])})'

    first = int(low[0])
    last = int(high[0])
    pieces = []
    if low[1:] != "0" * rest:
        pieces.append(f'"{first}" ({digits_between(low[1:], "9" * rest)})')
        first += 1

    if high[1:] != "9" * rest:
        pieces.append(f'"{last}" ({digits_between("0" * rest, high[1:])})')
        last -= 1

    if first <= last:
        pieces.append(f"[{first}-{last}] [0-9]{{{rest}}}")

    return " | ".join(pieces)


def whole(value: Any) -> "int | None":
    """Return a number that is whole, however it is written; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if math.isfinite(value) and value == int(value) else None
