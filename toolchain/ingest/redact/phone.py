"""Telephone numbers: Chinese mobiles and landlines, hotlines, numbers with a country code.

Mobiles come before cards: of numbers with +86 one in ten passes the cards' check digit.
"""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import LEFT, RIGHT, SEP, Draw, Kind, Span, digits_of, spans

_MOBILE = re.compile(
    rf"(?<!\d[-./]){LEFT}(?:(?:\((?:\+|00)?86\)|(?:\+|00)?86){SEP})?"
    rf"1(?:3\d|4[014-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])"
    rf"(?:{SEP}\d{{4}}{SEP}\d{{4}}|(?P<sep>[- ])\d{{3}}(?P=sep)\d{{5}}){RIGHT}"
)
_EXTENSION = r"(?:(?:-|转|,?\s?(?:ext\.?|extension|x|分机|转|Durchwahl))\s?\d{1,5})?"
_AREA = r"(?:10|2\d|[3-9]\d{2})"
_LANDLINE = re.compile(
    rf"(?<!\d[-./]){LEFT}(?:\(0{_AREA}\)\s?|0{_AREA}[- ]?"
    rf"|(?:(?:\+|00)86[- ]?|86[- ])(?:\(0\))?(?:0?{_AREA}|\(0?{_AREA}\))[- ]?)"
    rf"[2-8]\d{{2,3}}[- ]?\d{{4}}{_EXTENSION}{RIGHT}"
)
_HOTLINE = re.compile(rf"(?<!\d[-./]){LEFT}[48]00{SEP}\d{{3,4}}{SEP}\d{{3,4}}{RIGHT}")
# ITU-T E.164: at most 15 digits with the country code.
_INTERNATIONAL = re.compile(
    r"(?<![0-9A-Za-z+])(?<!\d[.])(?:\+[1-9]\d{0,2}|00[1-9]\d{0,2}[- .])"
    rf"(?:[- .]?(?:\(\d{{1,4}}\)|\d{{1,4}})){{2,6}}{_EXTENSION}{RIGHT}"
)
_AMERICAN = re.compile(
    rf"(?<!\d[-. ]){LEFT}(?:\+?1[-. ])?(?:\([2-9]\d{{2}}\)\s?|[2-9]\d{{2}}[-.])"
    rf"[2-9]\d{{2}}(?:[-.]|(?<=\) \d{{3}}) )\d{{4}}{_EXTENSION}{RIGHT}(?![-.]\d)"
)
# 015, 016 and 017 are mobiles of Germany (Bundesnetzagentur); its other numbers need a cue.
_GERMAN = re.compile(rf"(?<!\d[-./]){LEFT}01[567]\d{{1,2}}[-/ ]\s?\d{{3,4}}[- ]?\d{{3,5}}{RIGHT}")
# A slash behind the code of a place is what only Germany and Austria write.
_GERMAN_PLACE = re.compile(
    rf"(?<!\d[-./])(?<!/){LEFT}0[2-9]\d{{1,4}} ?/ ?\d{{4,8}}(?:-\d{{1,4}})?{RIGHT}(?!/)"
)
_BRITISH = re.compile(
    rf"(?<!\d[-./ ]){LEFT}07[1-9]\d{{2}}[ -]\d{{3}}[ -]?\d{{3}}{RIGHT}(?![-. ]\d)"
)
# Mobiles of France; pairs of digits are also what dumps of memory look like.
_FRENCH = re.compile(rf"(?<!\d[-./ ]){LEFT}0[67](?:[ .-]\d{{2}}){{4}}{RIGHT}(?![-. ]\d)")
_CUED = re.compile(
    r"(?:电话|手机|座机|联系方式|致电|拨打|传真|热线|(?<![A-Za-z])(?:tel|telephone|phone|mobile|cell|fax|"
    r"whatsapp|viber|telegram|call|ring|text|reach|contact|my number|telefon|handy|mobil|rufnummer|"
    r"durchwahl|telefax|erreichbar|anrufen|t[ée]l[ée]phone|t[ée]l|tel[ée]fono|m[óo]vil|portable))"
    r"(?:号码|号|\s?number|nummer)?(?:\s+(?:me|us|him|her))?(?:\s+(?:at|on|under|unter))?"
    r"\s*(?:是|为|\.?:|\.|is|at|ist|lautet)?\s*"
    rf"(?P<value>\+?\(?\d[-.\d ()/]{{5,20}}\d){RIGHT}",
    re.IGNORECASE,
)
_RULES = (
    ("mobile", _MOBILE),
    ("landline", _LANDLINE),
    ("hotline", _HOTLINE),
    ("country code", _INTERNATIONAL),
    ("American", _AMERICAN),
    ("German mobile", _GERMAN),
    ("German landline", _GERMAN_PLACE),
    ("British mobile", _BRITISH),
    ("French mobile", _FRENCH),
)
_ABROAD = re.compile(r"(?:\+|(?<![0-9])00)(?!86)[1-9]\d{0,2}[- .]?$")
_FRACTION = re.compile(r"(?:\+|00)\d{1,3}\.\d+")
"""`+1.12345679`, `[00545.227783]`: a number with a fraction, a time since the start."""
_DATE = re.compile(r"(?:19|20)\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])")


def _find_mobile(text: str) -> Iterator[Span]:
    for span in spans(_MOBILE, text, "mobile"):
        # `+49 151 23456789` is no mobile of China.
        if not _ABROAD.search(text[max(0, span.start - 8) : span.start]):
            yield span


def _find_other(text: str) -> Iterator[Span]:
    for rule, pattern in _RULES[1:]:
        for span in spans(pattern, text, rule):
            value = text[span.start : span.end]
            if 8 <= len(digits_of(value)) <= 20 and not _FRACTION.fullmatch(value):
                yield span
    for span in spans(_CUED, text, "cue"):
        value = text[span.start : span.end]
        if 7 <= len(digits_of(value)) <= 15 and not _DATE.fullmatch(value[:10]):
            yield span


def _normal(value: str) -> str:
    """Return the digits without the country code of China."""
    digits = digits_of(value).removeprefix("00")
    return digits[2:] if digits.startswith("86") and len(digits) >= 12 else digits


def _is_reserved(value: str) -> bool:
    """Say whether nobody has a number: ours, those of films, and what only zeros follow."""
    digits = _normal(value)
    is_ours = digits.startswith("999") or (digits.startswith("10") and len(digits) == 11)
    # +1 NPA 555-0100 to 555-0199 are kept free for examples.
    is_film = bool(re.fullmatch(r"1?[2-9]\d{2}55501\d{2}", digits))
    return is_ours or is_film or digits.endswith("00000000") or len(set(digits)) == 1


def _lifelike_mobile(draw: Draw) -> str:
    """Return eleven digits that begin with 10: no mobile does."""
    return "10" + draw.digits(9)


def _lifelike(draw: Draw) -> str:
    """Return a number of country code 999, which ITU keeps free."""
    return f"+999 {draw.digits(4)} {draw.digits(8)[4:]}"


_MAY_HOLD = re.compile(r"\d[-\d ()._/·\u200b\t\r\n]{5,}\d").search
MOBILE = Kind(
    name="phone",
    needs_digit=True,
    may_hold=_MAY_HOLD,
    find=_find_mobile,
    is_reserved=_is_reserved,
    normal=_normal,
    lifelike=_lifelike_mobile,
)
OTHER = Kind(
    name="phone",
    needs_digit=True,
    may_hold=_MAY_HOLD,
    find=_find_other,
    is_reserved=_is_reserved,
    normal=_normal,
    lifelike=_lifelike,
)
