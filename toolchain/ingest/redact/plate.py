"""Number plates of Chinese vehicles (GA 36-2018): five signs, or six of new energy.

Others are found behind a cue.
"""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import RIGHT, Draw, Kind, Span, spans

_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_LEAST_SIGNS = 5
"""Of a plate behind a cue: shorter ones are numbers of anything."""
# Serial numbers have no I and no O: they look like 1 and 0.
_SIGN = "[A-HJ-NP-Z0-9]"
_PLATE = re.compile(
    rf"[{_PROVINCES}] ?[A-Z](?:[-·•. ]| - )?(?=[A-Z]{{0,6}}\d)(?:{_SIGN}(?:[-·•]?{_SIGN}){{4,5}}"
    rf"|{_SIGN}{{4}}[学警挂港澳领使试超]){RIGHT}"
    # Of the armed police.
    rf"|WJ ?[{_PROVINCES}] ?\d{{4}}[0-9A-Z]{RIGHT}",
    re.IGNORECASE,
)
_CUED = re.compile(
    r"(?:[Ll]icen[cs]e [Pp]late|[Nn]umber ?[Pp]late|[Pp]late [Nn]umber|(?<![A-Za-z])[Kk]ennzeichen|"
    r"[Nn]ummernschild|车牌号?码?)(?: number)?\s*(?:is|ist|lautet|是|为|:)?\s*"
    r"(?P<value>(?=[A-ZÄÖÜ0-9 -]{0,8}\d)[A-ZÄÖÜ0-9]{1,7}(?:[- ][A-ZÄÖÜ0-9]{1,4}){0,2}|使\d{6})"
    rf"{RIGHT}"
)


def _find(text: str) -> Iterator[Span]:
    yield from spans(_PLATE, text, "plate")
    for span in spans(_CUED, text, "cue"):
        if span.end - span.start >= _LEAST_SIGNS:
            yield span


def _lifelike(draw: Draw) -> str:
    """Return a plate whose serial number begins with an I, which none does."""
    return f"{draw.of(_PROVINCES)}A·I{draw.digits(4)}"


KIND = Kind(
    name="plate",
    needs_digit=True,
    may_hold=re.compile(
        rf"[{_PROVINCES}] ?[A-Za-z]|WJ|[Pp]late|ennzeichen|ummernschild|车牌"
    ).search,
    find=_find,
    normal=lambda value: re.sub(r"[-·•. ]", "", value).upper(),
    lifelike=_lifelike,
)
