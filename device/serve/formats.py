"""Strings of a known `format` in a JSON schema, as parts of llama.cpp's grammars (GBNF).

The rule to keep: every string that such a part accepts has the format, though not every string of
the format is accepted. Standard library only.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """The grammar of a format, and the lengths of its strings."""

    grammar: str
    least: int
    most: int


_DAYS_28 = '("0" [1-9] | "1" [0-9] | "2" [0-8])'
_DATE = (
    '[1-9] [0-9]{3} "-" ("02-" '
    + _DAYS_28
    + ' | ("0" [469] | "11") "-" ('
    + _DAYS_28
    + ' | "29" | "30") | ("0" [13578] | "10" | "12") "-" ('
    + _DAYS_28
    + ' | "29" | "30" | "31"))'
)
_CLOCK = '("0" [0-9] | "1" [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [-+] {_CLOCK})'
_DURATION = '"P" ([1-9] [0-9]{0,2} "D" | "T" [1-9] [0-9]{0,2} [HMS])'
_HEX = "[0-9a-f]"
_BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9])'
_IPV4 = f'{_BYTE} "." {_BYTE} "." {_BYTE} "." {_BYTE}'
_IPV6 = f'{_HEX}{{1,4}} (":" {_HEX}{{1,4}}){{7}}'
_LABEL = "[a-z0-9]{1,16}"
_DOMAIN = f'{_LABEL} ("." {_LABEL}){{0,3}} "." [a-z]{{2,10}}'
_PATH = '("/" [a-zA-Z0-9_~-]{0,24}){0,4}'


def _uuid(version: str) -> Form:
    """Return UUIDs (RFC 9562); any version if none is named."""
    third = f'"{version}" {_HEX}{{3}}' if version else f"{_HEX}{{4}}"
    fourth = f"[89ab] {_HEX}{{3}}" if version else f"{_HEX}{{4}}"
    parts = [f"{_HEX}{{8}}", f"{_HEX}{{4}}", third, fourth, f"{_HEX}{{12}}"]
    return Form(' "-" '.join(parts), 36, 36)


_URI = Form(f'"http" "s"? "://" {_DOMAIN} {_PATH}', 11, 196)
FORMATS = {
    "date": Form(_DATE, 10, 10),
    "time": Form(_TIME, 9, 21),
    "date-time": Form(f'{_DATE} "T" {_TIME}', 20, 32),
    "duration": Form(_DURATION, 3, 6),
    "uuid": _uuid(""),
    **{f"uuid{version}": _uuid(version) for version in "134567"},
    "ipv4": Form(_IPV4, 7, 15),
    "ipv6": Form(_IPV6, 15, 39),
    # A network has no bits behind its prefix, so a network of one address is one.
    "ipv4network": Form(f'{_IPV4} "/32"', 10, 18),
    "ipv6network": Form(f'{_IPV6} "/128"', 19, 43),
    "ipv4interface": Form(f'{_IPV4} "/" ("3" [0-2] | [1-2] [0-9] | [0-9])', 9, 18),
    "hostname": Form(_DOMAIN, 4, 78),
    "email": Form(f'{_LABEL} ("." {_LABEL}){{0,3}} "@" {_DOMAIN}', 6, 146),
    "uri": _URI,
    "uri-reference": _URI,
    "url": _URI,
    "base64": Form("([A-Za-z0-9+/]{4}){0,64}", 0, 256),
}
"""Format of a string → strings that have it (RFC 3339, 9562, 2673, 4291, 3986, 5321, 4648; ISO
8601; pydantic's names)."""
WRITTEN = {
    "duration": (
        r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?"
        r"(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
    ),
    "hostname": (
        r"^(?=.{1,253}\.?$)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
        r"(?:\.[a-zA-Z0-9](?:[-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?)*\.?$"
    ),
}
"""Format → the pattern that zod writes beside it: no grammar can look ahead, and all strings of
`FORMATS` match it."""
ANY_TEXT = frozenset({"binary", "password", "path"})
"""Formats that any string has: OpenAPI's hints for editors."""
NUMBERS = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
    "float": None,
    "double": None,
}
"""Format of a number (OpenAPI) → its least and greatest value; None for no bound."""
