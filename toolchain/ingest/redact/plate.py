"""Number plates of Chinese vehicles (GA 36-2018): five signs, or six of new energy."""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import RIGHT, Draw, Kind, Span, spans

_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
# Serial numbers have no I and no O: they look like 1 and 0.
_PLATE = re.compile(
    rf"[{_PROVINCES}][A-Z][-·•. ]?(?=[A-Z]{{0,6}}\d)(?:[A-HJ-NP-Z0-9]{{5,6}}|[A-HJ-NP-Z0-9]{{4}}"
    rf"[学警挂港澳领使试超]){RIGHT}",
    re.IGNORECASE,
)


def _find(text: str) -> Iterator[Span]:
    yield from spans(_PLATE, text, "plate")


def _lifelike(draw: Draw) -> str:
    """Return a plate whose serial number begins with an I, which none does."""
    return f"{draw.of(_PROVINCES)}A·I{draw.digits(4)}"


KIND = Kind(
    name="plate",
    may_hold=re.compile(rf"[{_PROVINCES}][A-Za-z]").search,
    find=_find,
    normal=lambda value: re.sub(r"[-·•. ]", "", value).upper(),
    lifelike=_lifelike,
)
