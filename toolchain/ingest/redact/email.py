"""Addresses of electronic mail; names that are reserved for examples stay (RFC 2606, RFC 6761)."""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import RIGHT, Kind, Span, spans

_EMAIL = re.compile(
    r"(?<![0-9A-Za-z._%+\-])[0-9A-Za-z_%+](?:[0-9A-Za-z._%+\-]{0,62}[0-9A-Za-z_%+\-])?@"
    rf"(?:[0-9A-Za-z](?:[0-9A-Za-z-]{{0,61}}[0-9A-Za-z])?\.){{1,6}}[A-Za-z]{{2,24}}{RIGHT}"
)
_SPELLED = re.compile(
    r"(?<![0-9A-Za-z._])[0-9A-Za-z._%+-]{2,64}\s?[\[({]\s?(?:at|AT)\s?[\])}]\s?"
    r"[0-9A-Za-z-]{2,63}"
    rf"(?:\s?(?:\.|[\[({{]\s?(?:dot|DOT)\s?[\])}}])\s?[0-9A-Za-z-]{{2,63}}){{1,3}}{RIGHT}"
)
_PATH = re.compile(r":[\w~/.]")
_RESERVED = re.compile(
    r"@(?:[\w.-]+\.)?(?:example(?:\.(?:com|net|org|cn|edu))?|test|invalid|localhost|local|lan|"
    r"internal|home\.arpa)$",
    re.IGNORECASE,
)
_NOBODYS = re.compile(
    r"(?:git|user|username|name|your[._-]?name|you|someone|nobody|noreply|no-reply|hg|svn)@",
    re.IGNORECASE,
)


def _find(text: str) -> Iterator[Span]:
    for span in spans(_EMAIL, text, "address"):
        # `ssh://user@host` and `user@host:path` are places of files, not mail.
        is_place = text[: span.start].endswith("://") or _PATH.match(text, span.end)
        if not is_place:
            yield span
    yield from spans(_SPELLED, text, "spelled out")


def _is_reserved(value: str) -> bool:
    return bool(_RESERVED.search(value) or _NOBODYS.match(value))


KIND = Kind(
    name="email",
    may_hold=re.compile(r"@|[\[({]\s?at\s?[\])}]", re.IGNORECASE).search,
    find=_find,
    is_reserved=_is_reserved,
    normal=lambda value: value.strip().casefold(),
    lifelike=lambda draw: f"{draw.word(7)}@mail.example",
)
