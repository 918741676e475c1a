"""What a kind of personal data is: how it is found, what is kept, and what stands in for it.

Rules look around by ASCII alone: `\\b` never matches between a digit and a Chinese character, so a
rule with it misses every value that is glued to one.
"""

import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

LEFT, RIGHT = r"(?<![0-9A-Za-z])", r"(?![0-9A-Za-z])"
"""No ASCII letter or digit before, and none behind."""
BREAK = r"[ \t]{0,2}\r?\n[ \t]{0,8}"
"""A line end, as mail programs put one where there was a space."""
SEP = rf"(?:[-._/·\u200b]|[ \t]{{1,2}}| - |-?{BREAK})?"
"""What may stand between the groups of a number."""
LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
"""Latin letters, also those with marks: a value that ends at an `ü` would be half replaced."""
UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0152\u0160\u017d\u0141\u015a\u010c\u0130"
_FOLD = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys((0x3000, 0xA0, 0x2002, 0x2003, 0x2009, 0x202F), ord(" ")),
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2212), ord("-")),
    **dict.fromkeys((0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD), 0x200B),
    # Digits of other scripts: Arabic, Persian, Devanagari, Thai, and the bold ones of mathematics.
    **{
        zero + digit: ord("0") + digit
        for zero in (0x660, 0x6F0, 0x966, 0xE50, *range(0x1D7CE, 0x1D800, 10))
        for digit in range(10)
    },
}
"""Full-width signs, spaces and dashes → ASCII, one for one, so that places stay the same."""


class Span(NamedTuple):
    """A value in a text."""

    start: int
    end: int
    rule: str
    """Name of the rule that found it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Numbers that a value and the user's key decide, as long as are needed."""

    key: bytes
    value: str

    def word(self, count: int) -> str:
        """Return letters and digits without those that look alike."""
        return "".join(self.of(_LETTERS, at) for at in range(count))

    def digits(self, count: int) -> str:
        """Return decimal digits."""
        return "".join(self.of("0123456789", at) for at in range(count))

    def of(self, choices: Sequence[str], at: int = 0) -> str:
        """Return one of some choices; `at` makes another draw of the same value."""
        # A block of SHA-256 for each draw: two draws never share bits.
        block = hmac.digest(self.key, f"{at}\0{self.value}".encode(), "sha256")
        return choices[int.from_bytes(block[:8], "big") % len(choices)]


_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of personal data."""

    name: str
    may_hold: Callable[[str], object]
    """A cheap look at a folded text that says whether the rules are worth a try."""
    find: Callable[[str], Iterable[Span]]
    """Returns the values in a folded text."""
    needs_digit: bool = False
    """Whether each value has a digit: a text without one is not looked at."""
    is_reserved: Callable[[str], bool] = lambda value: False
    """Says of a value whether it is nobody's: a reserved range, a placeholder."""
    normal: Callable[[str], str] = lambda value: re.sub(r"[^0-9A-Za-z]", "", value).upper()
    """Returns what two ways to write the same value share."""
    lifelike: Callable[[Draw], str]
    """Returns a surrogate of the same shape that no rule finds again and that is nobody's."""


def folded(text: str) -> str:
    """Return a text whose full-width signs are ASCII; each sign keeps its place."""
    return text if text.isascii() else text.translate(_FOLD)


def has_digit(text: str) -> bool:
    """Say whether a folded text may hold a decimal digit."""
    # One that is not ASCII may have digits of other scripts.
    return not text.isascii() or any(digit in text for digit in "0123456789")


def spans(pattern: re.Pattern[str], text: str, rule: str) -> Iterator[Span]:
    """Yield what a pattern matches; its group `value`, if it has one."""
    group = "value" if "value" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        yield Span(*match.span(group), rule)


def digits_of(value: str) -> str:
    """Return the digits of a value."""
    return re.sub(r"[^0-9]", "", value)
