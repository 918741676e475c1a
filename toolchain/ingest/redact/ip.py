"""Addresses of the Internet; private and reserved ones, and resolvers that all know, stay."""

import ipaddress
import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import Draw, Kind, Span, spans

# `1.2.3[.]4` is how reports of attacks write them.
_FOUR = re.compile(
    r"(?<![0-9A-Za-z.])\d{1,3}(?:(?:\.|\[\.\]|\(\.\)|。)\d{1,3}){3}(?![0-9A-Za-z]|\.\d)"
)
_SIX = re.compile(
    # A word before a colon is a cue, a group of hexadecimal digits is a part of the address.
    r"(?<![0-9A-Za-z.])(?:(?<![0-9A-Za-z:]:)|(?<=[g-zG-Z]:)|(?<=[vV]6:)|(?<=[A-Za-z]{4}:))"
    r"(?:[0-9A-Fa-f]{1,4}|(?=::))(?::[0-9A-Fa-f]{0,4}){2,7}"
    r"(?![0-9A-Za-z:])"
)
_GLOBAL_SIX = ipaddress.ip_network("2000::/3")
"""What has been given out of IPv6: `a::b` is C++."""
_VERSION = re.compile(
    r"(?:(?<![A-Za-z])v|version|ver\.?|release|build|firmware|版本|固件|内核|驱动|==|>=|<=)"
    r"\s*(?:号|是|为|[:：])?\s*$",
    re.IGNORECASE,
)
"""What stands before a number of a version, which may have four parts too."""
RESOLVERS = frozenset(
    ipaddress.ip_address(each)
    for each in [
        "1.0.0.1",
        "1.1.1.1",
        "8.8.4.4",
        "8.8.8.8",
        "9.9.9.9",
        "149.112.112.112",
        "208.67.220.220",
        "208.67.222.222",
        "114.114.114.114",
        "114.114.115.115",
        "223.5.5.5",
        "223.6.6.6",
        "119.29.29.29",
        "180.76.76.76",
        "2001:4860:4860::8888",
        "2001:4860:4860::8844",
        "2606:4700:4700::1111",
        "2606:4700:4700::1001",
        "2620:fe::fe",
    ]
)
"""Public name servers that manuals name."""


def _find(text: str) -> Iterator[Span]:
    for span in spans(_FOUR, text, "IPv4"):
        if _address(text[span.start : span.end]) and not _VERSION.search(
            text[max(0, span.start - 24) : span.start]
        ):
            yield span
    for span in spans(_SIX, text, "IPv6"):
        if _address(text[span.start : span.end]):
            yield span


def _address(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(re.sub(r"[\[\]()]", "", value).replace("。", "."))
    except ValueError:
        return None


def _is_reserved(value: str) -> bool:
    address = _address(value)
    if address is None or (address.version == 6 and address not in _GLOBAL_SIX):
        return True
    return not address.is_global or address.is_multicast or address in RESOLVERS


def _lifelike(draw: Draw) -> str:
    """Return an address of the blocks for documentation (RFC 5737)."""
    blocks = ("192.0.2", "198.51.100", "203.0.113")
    return f"{draw.of(blocks)}.{draw.of([str(each) for each in range(1, 255)], 1)}"


KIND = Kind(
    name="ip",
    may_hold=re.compile(r"\d[.。\[(][.\d]|[0-9A-Fa-f:]:[0-9A-Fa-f:]").search,
    find=_find,
    is_reserved=_is_reserved,
    normal=lambda value: str(_address(value) or value),
    lifelike=_lifelike,
)
