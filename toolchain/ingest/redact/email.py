"""Addresses of electronic mail; names that are reserved for examples stay (RFC 2606, RFC 6761)."""

import re
from collections.abc import Iterator

from toolchain.ingest.redact.kind import LATIN, RIGHT, Kind, Span, spans

# RFC 6531: both sides may have letters with marks. Chinese ones are left out: there the sentence
# around an address touches it.
_LETTER = f"0-9{LATIN}"
_EMAIL = re.compile(
    rf"(?<![{_LETTER}._%+\-])[{_LETTER}_%+](?:[{_LETTER}._%+\-'’]{{0,62}}[{_LETTER}_%+\-])?"
    rf"(?:@|%40)"
    rf"(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.){{1,6}}[A-Za-z]{{2,24}}{RIGHT}"
)
_TOP = r"(?:com(?:\.cn)?|net|org|edu|gov|cn|de|at|ch|fr|uk|eu|io|info|me)"
# What is written so that no machine finds it. `look at the dot` is none.
_EVADED = re.compile(
    rf"(?<![0-9A-Za-z._%+-])[0-9A-Za-z][0-9A-Za-z._%+-]{{1,63}}(?:"
    rf"\s[Aa][Tt]\s(?!(?:the|a|an|this|that|our|my|your|each|one)\s)[0-9A-Za-z-]{{2,63}}"
    rf"(?:\s[Dd][Oo][Tt]\s[0-9A-Za-z-]{{2,63}}){{1,3}}"
    rf"|(?:\s@\s?|@\s)[0-9A-Za-z-]{{2,63}}(?:\s?\.\s?[0-9A-Za-z-]{{2,63}}){{0,2}}\s?\.\s?{_TOP}"
    rf"|@[0-9A-Za-z-]{{2,63}}(?:\.[0-9A-Za-z-]{{2,63}}){{0,2}}。{_TOP}"
    rf"|(?:艾特|圈A)[0-9A-Za-z-]{{2,63}}(?:点|\.){_TOP}"
    rf"|#(?:qq|163|126|gmail|outlook|hotmail|sina|foxmail|web|gmx)\.{_TOP}){RIGHT}"
)
_SPELLED = re.compile(
    r"(?<![0-9A-Za-z._])[0-9A-Za-z._%+-]{2,64}\s?[\[({]\s?(?:at|AT)\s?[\])}]\s?"
    r"[0-9A-Za-z-]{2,63}"
    rf"(?:\s?(?:\.|[\[({{]\s?(?:dot|DOT)\s?[\])}}])\s?[0-9A-Za-z-]{{2,63}}){{1,3}}{RIGHT}"
)
_PATH = re.compile(r":[\w~/.]")
_RESERVED = re.compile(
    r"@(?:[\w.-]+\.)?(?:example(?:\.(?:com|net|org|cn|edu))?|test|invalid|localhost|local|lan|"
    r"internal|home\.arpa)$"
    # Algorithms of SSH and units of systemd have the form of an address.
    r"|@(?:openssh\.com|libssh\.org)$|@[\w.-]*\.(?:service|socket|timer|target|mount|slice)$",
    re.IGNORECASE,
)
_NOBODYS = re.compile(
    r"(?:git|user|username|name|your[._-]?name|you|someone|nobody|noreply|no-reply|hg|svn)@",
    re.IGNORECASE,
)


def _find(text: str) -> Iterator[Span]:
    for span in spans(_EMAIL, text, "address"):
        # `ssh://user@host` and `user@host:path` are places of files, not mail.
        is_place = text.endswith("://", 0, span.start) or _PATH.match(text, span.end)
        if not is_place:
            yield span
    yield from spans(_SPELLED, text, "spelled out")
    yield from spans(_EVADED, text, "spelled out")


def _normal(value: str) -> str:
    """Return an address as it is written outside of links."""
    return value.strip().replace("%40", "@").casefold()


def _is_reserved(value: str) -> bool:
    return bool(_RESERVED.search(value) or _NOBODYS.match(value))


KIND = Kind(
    name="email",
    may_hold=re.compile(
        r"@|%40|[\[({]\s?at\s?[\])}]|\sat\s|艾特|圈A|#(?:qq|1|gm|ou|ho|si|fo|we)", re.IGNORECASE
    ).search,
    find=_find,
    is_reserved=lambda value: _is_reserved(_normal(value)),
    normal=_normal,
    lifelike=lambda draw: f"{draw.word(7)}@mail.example",
)
