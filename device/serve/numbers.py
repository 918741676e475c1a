"""Numbers between fractions, and multiples of a number, as parts of llama.cpp's grammars (GBNF).

Between whole numbers: gbnf.py. The rule to keep: every text that a part accepts is a number that
fits, though not every spelling of such a number is accepted. Standard library only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from device.serve.gbnf import MAX_DIGITS, digits_between, integers

MAX_DECIMALS = 12
"""Maximum number of decimals of a bound or of a step."""
MAX_LISTED = 500
"""Maximum number of multiples that are listed one by one."""
_GREATEST = Decimal(10**MAX_DIGITS - 1)
_LONGEST = 15
"""Maximum number of decimals of an answer."""
_MAX_SUFFIX = 4
"""Maximum number of digits that say whether a number is a multiple."""


def decimal(value: Any) -> "Decimal | None":
    """Return a number as it was written; None for what is no number, or has too many decimals."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = Decimal(repr(value)).normalize()
    return number if _decimals(number) <= MAX_DECIMALS else None


def _decimals(number: Decimal) -> int:
    """Return the number of digits after the decimal point."""
    return max(0, -int(number.as_tuple().exponent))


@dataclass(frozen=True)
class Range:
    """The numbers between two bounds, each of which is in it or not; None for no bound."""

    low: "Decimal | None" = None
    high: "Decimal | None" = None
    low_out: bool = False
    high_out: bool = False

    def holds(self, number: Decimal) -> bool:
        """Say whether a number is in the range."""
        low, high = self.low, self.high
        above = low is None or number > low or (number == low and not self.low_out)
        below = high is None or number < high or (number == high and not self.high_out)
        return above and below

    def piece(self) -> str:
        """Return the grammar part of the numbers; empty if there is none."""
        low = -_GREATEST if self.low is None else max(self.low, -_GREATEST)
        high = _GREATEST if self.high is None else min(self.high, _GREATEST)
        parts = []
        if low < 0:
            near, out = (-high, self.high_out) if high <= 0 else (Decimal(0), False)
            parts += [f'"-" ({each})' for each in _between(near, -low, out, self.low_out)]
        if high >= 0:
            near, out = (low, self.low_out) if low >= 0 else (Decimal(0), False)
            parts += _between(near, high, out, self.high_out)
        return " | ".join(parts)


def _between(near: Decimal, far: Decimal, near_out: bool, far_out: bool) -> Iterator[str]:
    """Yield the parts of the unsigned numbers between two bounds, by their whole part."""
    first, last = int(near), int(far)
    if near > far:
        return
    if first == last:
        inside = _fractions((near % 1, far % 1), near_out, far_out)
        if inside:
            yield f'"{first}" {inside}'
        return

    yield f'"{first}" {_fractions((near % 1, Decimal(1)), near_out, True)}'
    between = integers(first + 1, last - 1)
    if between:
        yield f'({between}) ("." [0-9]{{1,{_LONGEST}}})?'
    inside = _fractions((Decimal(0), far % 1), False, far_out)
    if inside:
        yield f'"{last}" {inside}'


def _fractions(ends: "tuple[Decimal, Decimal]", low_out: bool, high_out: bool) -> str:
    """Return the part of a decimal point and digits between two fractions; 1 for all up to it."""
    low, high = ends
    size = max(1, _decimals(low), _decimals(high))
    rest = _LONGEST - size
    first, last = int(low.scaleb(size)), int(high.scaleb(size))
    if first == last:
        exact = f'"." "{first:0{size}}" "0"{{0,{rest}}}'
        return "" if low_out or high_out else _maybe(exact, not first)

    tail = f"[0-9]{{0,{rest - 1}}} [1-9]" if low_out else f"[0-9]{{0,{rest}}}"
    parts = [f'"{first:0{size}}" {tail}']
    if last - first > 1:
        between = digits_between(f"{first + 1:0{size}}", f"{last - 1:0{size}}")
        parts.append(f"({between}) [0-9]{{0,{rest}}}")
    if not high_out:
        parts.append(f'"{last:0{size}}" "0"{{0,{rest}}}')
    return _maybe(f'"." ({" | ".join(parts)})', not first and not low_out)


def _maybe(text: str, optional: bool) -> str:
    """Return a part that may be left out: the whole number alone fits too."""
    return f"({text})?" if optional else text


def multiples(step: Decimal, within: Range, *, whole: bool) -> str:
    """Return the grammar part of the multiples of a number; empty if none can be written.

    Between two bounds they are listed; without a bound, or from 0 on, the last digits tell them.
    """
    low, high = within.low, within.high
    if high is None and (low is None or (low == 0 and not within.low_out)):
        found = _by_last_digits(step, whole=whole)
        return f"({found})" if found and low == 0 else found and f'"-"? ({found})'
    if low is None or high is None or (high - low) / step > MAX_LISTED:
        return ""

    begin = int((low / step).to_integral_value("ROUND_CEILING"))
    listed = (step * number for number in range(begin, begin + MAX_LISTED + 1))
    fits = [each for each in listed if within.holds(each)]
    return " | ".join(_literal(each) for each in fits if not whole or each == int(each))


def _literal(number: Decimal) -> str:
    """Return the grammar part of a number, without an exponent."""
    return f'"{number.normalize():f}"'


def _by_last_digits(step: Decimal, *, whole: bool) -> str:
    """Return the unsigned multiples of a number that the last digits tell; empty if none do."""
    places = _decimals(step)
    unit = int(step.scaleb(places))
    if places and whole:
        return integers(0, None) if 1 % step == 0 else ""
    size = places or next((n for n in range(1, _MAX_SUFFIX + 1) if not 10**n % unit), 0)
    if not size or size > _MAX_SUFFIX or 10**size % unit or 10**size // unit > MAX_LISTED:
        return ""

    last = " | ".join(f'"{number:0{size}}"' for number in range(0, 10**size, unit))
    if places:
        return f'({integers(0, None)}) ("." ({last}))?'
    short = " | ".join(f'"{number}"' for number in range(0, 10**size, unit))
    return f"[1-9] [0-9]{{0,{MAX_DIGITS - size - 1}}} ({last}) | {short}"
