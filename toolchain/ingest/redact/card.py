"""Numbers of payment cards: an issuer's prefix, its lengths, and the check digit (ISO/IEC 7812).

Accounts by their IBAN count as cards (toolchain/ingest/redact/iban.py).
By the check digit alone one number in ten would be a card.
"""

import re
from collections.abc import Iterator

from toolchain.ingest.redact import iban
from toolchain.ingest.redact.kind import BREAK, LEFT, RIGHT, Draw, Kind, Span, digits_of, spans

_ISSUERS = (
    ("4", "4", (16, 19)),
    ("51", "55", (16,)),
    ("2221", "2720", (16,)),
    ("34", "34", (15,)),
    ("37", "37", (15,)),
    ("62", "62", (16, 17, 18, 19)),
    ("81", "81", (16, 17, 18, 19)),
    ("3528", "3589", (16,)),
    ("6011", "6011", (16,)),
    ("644", "649", (16,)),
    ("65", "65", (16,)),
    ("300", "305", (14,)),
    ("36", "36", (14,)),
    ("38", "39", (14,)),
    ("2200", "2204", (16,)),
)
"""First and last prefix of an issuer, and the lengths of its numbers."""
_CARD = re.compile(
    rf"(?<!\d[-./ ]){LEFT}(?:\d{{14,19}}"
    r"|\d{4}(?P<sep>[-._/·\u200b\t]| {1,2}| - )\d{4}(?:(?P=sep)\d{4}){2}(?:(?P=sep)\d{1,3})?"
    # Bank cards of China show the issuer's six digits apart; some write two halves.
    r"|\d{6}[- ]\d{10,13}|\d{6}(?P<six>[- ])\d{4}(?P=six)\d{4}(?P=six)\d{2,5}|\d{8}[- ]\d{8}"
    # Where a line ends in the middle the issuer and the check digit must do.
    rf"|\d{{4}}(?:(?:[- ]|{BREAK})\d{{4}}){{3}}(?:(?:[- ]|{BREAK})\d{{3}})?"
    rf"|3\d{{3}}(?P<amex>[-.\t]| {{1,2}})\d{{6}}(?P=amex)\d{{4,5}}){RIGHT}"
)


def has_check_digit(digits: str) -> bool:
    """Say whether the last digit is the check digit of the others (Luhn)."""
    total = 0
    for at, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + at % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _find(text: str) -> Iterator[Span]:
    for span in spans(_CARD, text, "issuer and check digit"):
        digits = digits_of(text[span.start : span.end])
        if len(set(digits)) > 1 and _has_issuer(digits) and has_check_digit(digits):
            yield span
    yield from iban.find(text)


def _has_issuer(digits: str) -> bool:
    return any(
        first <= digits[: len(first)] <= last and len(digits) in lengths
        for first, last, lengths in _ISSUERS
    )


def _lifelike(draw: Draw) -> str:
    """Return sixteen digits whose last one is no check digit."""
    first = "4" + draw.digits(14)
    return first + next(each for each in "0123456789" if not has_check_digit(first + each))


KIND = Kind(
    name="card",
    needs_digit=True,
    may_hold=re.compile(r"\d{4}[-._/· \u200b\t\r\n]{0,12}\d{2}").search,
    find=_find,
    lifelike=_lifelike,
)
