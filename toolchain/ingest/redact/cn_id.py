"""Identity numbers of China: resident ids by their check digit, others by a cue before them.

GB 11643-1999: six digits of the region, the date of birth, three digits, a check digit by ISO 7064
MOD 11-2.
"""

import datetime
import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import LEFT, RIGHT, SEP, Draw, Kind, Span, spans

REGIONS = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "83",
        "91",
    ]
)
"""First two digits: provinces; 81 to 83 are residents of Hong Kong, Macao and Taiwan, 91 are
foreigners."""
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
# In whatever groups it is written: the date of birth and the check digit must do.
_WHOLE = re.compile(rf"{LEFT}[1-9](?:{SEP}\d){{16}}{SEP}[\dXx]{RIGHT}")
_CUE = (
    r"(?:身份证|证件|居民证|身份号码|ID card)(?:明)?(?:号码|号|number)?"
    r"\s*(?:是|为|[:：#]|is)?\s*"
)
_CUED = re.compile(rf"{_CUE}(?P<value>\d{{15}}|\d{{17}}[\dXx]){RIGHT}", re.IGNORECASE)
_PASSPORT = re.compile(
    r"(?:护照|通行证|回乡证|台胞证|军官证|passport)\s*(?:号码|号|number|no\.?)?\s*"
    r"(?:是|为|[:#]|is)?\s*"
    rf"(?P<value>[A-Z]{{1,2}}\d{{7,9}}|(?:(?<=台胞证)|(?<=台胞证[:号 ]))\d{{8}}){RIGHT}",
    re.IGNORECASE,
)


def check_digit(digits: str) -> str:
    """Return the check digit of the first 17 digits of a resident id."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=False))
    return _CHECKS[total % 11]


def _find(text: str) -> Iterator[Span]:
    for span in spans(_WHOLE, text, "check digit"):
        number = KIND.normal(text[span.start : span.end])
        if _is_plausible(number) and check_digit(number) == number[17]:
            yield span
    for span in spans(_CUED, text, "cue"):
        number = KIND.normal(text[span.start : span.end])
        if _is_plausible(number):
            yield span
    yield from spans(_PASSPORT, text, "passport cue")


def _is_plausible(number: str) -> bool:
    """Say whether region and date of birth exist; ids of 15 digits have two digits of the year."""
    born = number[6:14] if len(number) == 18 else f"19{number[6:12]}"
    try:
        datetime.date(int(born[:4]), int(born[4:6]), int(born[6:]))
    except ValueError:
        return False
    return number[:2] in REGIONS


def _lifelike(draw: Draw) -> str:
    """Return a number of a region that does not exist, with a wrong check digit."""
    first = "99" + draw.digits(4) + f"19{draw.of('56789')}{draw.digits(1)}0101" + draw.digits(3)
    return first + next(each for each in "0123456789" if each != check_digit(first))


KIND = Kind(
    name="cn_id",
    needs_digit=True,
    may_hold=re.compile(r"\d{3}[\dXx]").search,
    find=_find,
    lifelike=_lifelike,
)
