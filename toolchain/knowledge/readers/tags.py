"""HTML → the same page with tags that any parser reads in linear time.

The parser's time grows by the square with the depth of a page and with the attributes of a tag:
100,000 nested `div` were seven minutes, 50,000 attributes a minute and a half. No person writes
such a page; one must not stop a whole folder of documents.
"""

import re
from collections.abc import Iterator

MAX_DEPTH = 200
"""Elements within one another; what is deeper is read without its tags; browsers stop at 512."""
_MAX_QUOTED = 2000
"""Characters in which the end of a quoted value is looked for."""
_MARK = re.compile(r"<!--|<(/?)([a-z][a-z0-9:-]*)([^<>]*)>", re.IGNORECASE)
_HIDDEN = re.compile(
    r"\bhidden(?=[\s=/]|$)(?!\s*=\s*[\"']?until-found)|aria-hidden\s*=\s*[\"']?true"
    r"|display\s*:\s*none|visibility\s*:\s*hidden|role\s*=\s*[\"']?(?:navigation|search)\b",
    re.IGNORECASE,
)
_RAW = ("script", "style", "textarea", "xmp", "iframe", "noembed", "noframes")
"""Elements whose content is no HTML, and nothing to read."""
_FORMATTING = ("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong")
"""Elements that a parser opens again in each paragraph, if they are left open."""
_DROPPED = ("option", "optgroup", "plaintext")
_CLOSE_THEMSELVES = frozenset(
    """area base body br col colgroup dd dt embed head hr html img input li link meta p source tbody
    td tfoot th thead tr track wbr""".split()  # noqa: SIM905 - words of a line
)


def simplified(text: str) -> str:
    """Return a page without comments and scripts, without attributes, and not too deep.

    An element that is hidden keeps the attribute `hidden`.
    """
    return "".join(_pieces(text))


def _pieces(text: str) -> Iterator[str]:
    start = depth = 0
    while mark := _MARK.search(text, start):
        yield text[start : mark.start()]
        if mark[2] is None:
            start = _after(text, "-->", mark.end())
            continue

        closes, name = bool(mark[1]), mark[2].lower()
        start, attributes = _whole_tag(text, mark)
        if name in _RAW:
            if not closes:
                start = _after_element(text, name, start)
            continue
        if name in _DROPPED:
            yield " "
            continue

        depth += not closes and name not in _CLOSE_THEMSELVES
        if depth <= MAX_DEPTH or name in _CLOSE_THEMSELVES:
            yield _tag(name, closes, attributes)
        if closes and name not in _CLOSE_THEMSELVES:
            depth = max(0, depth - 1)
    yield text[start:]


def _tag(name: str, closes: bool, attributes: str) -> str:
    name = "span" if name in (*_FORMATTING, "tt", "u") else name
    if closes:
        return f"</{name}>"
    return f"<{name} hidden>" if _HIDDEN.search(attributes) else f"<{name}>"


def _whole_tag(text: str, mark: re.Match[str]) -> tuple[int, str]:
    """Return the end of a tag and its attributes, where a quoted value may hold a `>`."""
    end = mark.end()
    quote = next((sign for sign in "\"'" if mark[3].count(sign) % 2), "")
    if quote and (at := text.find(quote, end, end + _MAX_QUOTED)) >= 0:
        closed = text.find(">", at, at + _MAX_QUOTED)
        if closed >= 0:
            end = closed + 1
    return end, text[mark.start(3) : end - 1]


def _after(text: str, sign: str, start: int) -> int:
    """Return the position behind a sign, or the end of the text."""
    at = text.find(sign, start)
    return at + len(sign) if at >= 0 else len(text)


def _after_element(text: str, name: str, start: int) -> int:
    close = re.compile(rf"</{name}\b", re.IGNORECASE).search(text, start)
    return _after(text, ">", close.end()) if close else len(text)
