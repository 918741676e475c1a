"""Account numbers with their country and check digits: IBAN (ISO 13616, check by ISO 7064).

A country's numbers have one length, so that the next word of a sentence is told from a group.
"""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import LEFT, Span

_START = re.compile(rf"{LEFT}[A-Za-z]{{2}}\d{{2}}(?=[ -]?[0-9A-Za-z]{{4}})")
_MOST_SIGNS = 34 + 10
# SWIFT, IBAN Registry: characters of a whole number.
_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    "LC": 32,
}


def find(text: str) -> Iterator[Span]:
    """Yield the account numbers in a folded text whose check digits are right."""
    for match in _START.finditer(text):
        length = _LENGTHS.get(match[0][:2].upper())
        end = _end(text, match.start(), length) if length else None
        if end is not None and _has_check_digits(text[match.start() : end]):
            yield Span(match.start(), end, "IBAN")


def _end(text: str, start: int, length: int) -> int | None:
    """Return where so many letters and digits end: together, or in groups of four."""
    sign = text[start + 4 : start + 5]
    step = 5 if sign in ("-", " ") else _MOST_SIGNS
    seen = 0
    # A UUID has dashes as well, and its first group is longer.
    for at in range(start, min(len(text), start + _MOST_SIGNS)):
        if (at - start) % step == step - 1:
            if text[at] != sign:
                return None
        elif text[at].isascii() and text[at].isalnum():
            seen += 1
        else:
            return None
        if seen == length:
            behind = text[at + 1 : at + 2]
            return None if behind.isascii() and behind.isalnum() else at + 1
    return None


def _has_check_digits(value: str) -> bool:
    """Say whether a number, its first four signs moved to the end, is 1 modulo 97."""
    plain = re.sub("[ -]", "", value).upper()
    return int("".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])) % 97 == 1
