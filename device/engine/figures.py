"""Whether a grammar changes a figure of a tool call. Standard library only.

A grammar refuses the token that a model would say, and another one is taken in its place. The rule
to keep (ADR 20): a figure counts as changed if it may be. The form of a value (quotes, spaces,
units) and its words do not count.
"""

import re

from device.manifest.markups import NATIVE

_DIGITS = frozenset(b"0123456789")
_SIGNS = frozenset(b"-+")
_GOES_ON = frozenset(b".-+/eExX")
"""What makes another figure of the digits before it: 2.5, 5-10, 1/2, 1e3, 0x40."""
_BEFORE = frozenset(b':=,[("')
"""What stands before a value; a quote before a text, the others before a number."""
_CLOSING = frozenset(b"}]>")
"""What closes an object, a list or a call: no figure begins or goes on after it."""
_QUOTES = tuple(markup.quote.encode() for markup in NATIVE if markup.quote)
"""What else ends in `>`, and a text begins after it."""
_EXACT = re.compile(rb"\.[0-9]{15}$")
"""As many decimals as any grammar of numbers takes; the next ones are no more than rounding."""
_NOTHING = frozenset((b"null", b"none", b"nan", b"undefined"))
"""What stands for a value that is not there."""
_QUOTE = ord('"')


def is_changed(call: bytes, refused: bytes, taken: bytes) -> bool:
    """Say whether a figure changes if `taken` goes on a call in place of `refused`.

    `call` is the text of the call so far, or its end.
    """
    would, does = refused.lstrip(), taken.lstrip()
    before = call.rstrip()[-1:]
    if _is_in(before, _CLOSING) and not call.endswith(_QUOTES):
        return False
    if _is_in(would, _DIGITS):
        if _EXACT.search(call):
            return False
        return _figure(would) != _figure(does)
    if _is_in(call[-1:], _DIGITS):
        # It goes on otherwise (2.5 as 2), or goes on where it was to end (5 as 50).
        goes_on = _is_in(refused, _GOES_ON) and refused[:1] != taken[:1]
        return goes_on or _is_in(taken, _DIGITS)

    if not _is_in(before, _BEFORE):
        return False
    if _is_in(would, _SIGNS):
        return would[:1] != does[:1]
    # A number where the model has none to say is nobody's figure.
    is_number = before[0] != _QUOTE and _is_in(does, _DIGITS | _SIGNS)
    return is_number and would.strip().lower() in _NOTHING


def _is_in(text: bytes, kind: "frozenset[int]") -> bool:
    """Say whether a text begins with a character of a kind."""
    return bool(text) and text[0] in kind


def _figure(text: bytes) -> bytes:
    """Return the digits with which a text begins."""
    return text[: len(text) - len(text.lstrip(bytes(_DIGITS)))]
