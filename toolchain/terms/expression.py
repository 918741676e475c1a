"""SPDX licence expressions: read, written in one way, and cut into the choices that they leave.

Source: the SPDX specification 3.0, annex B. `license-expression` parses them and knows the ids.
"""

from functools import cache
from itertools import product
from typing import Any

from toolchain.config import closest
from toolchain.terms.table import id_of, rows

MAX_CHARS = 500
MOST_CHOICES = 64
_OWN = "LicenseRef-"
Choice = frozenset[str]
"""Licences that hold together; one with an exception is written `ID WITH EXCEPTION`."""


class BadExpression(ValueError):  # noqa: N818 - a finding for whoever knows where it stands
    """A text that is no SPDX expression, and why."""


def canonical(text: str) -> str:
    """Return an expression with the ids as SPDX spells them; empty for an empty one.

    Raise BadExpression for a text that is none, and for an id that SPDX does not list.
    """
    if not (text := text.strip()):
        return ""
    if len(text) > MAX_CHARS:
        raise BadExpression(f"longer than {MAX_CHARS} characters")
    if (known := id_of(text)) in rows():
        return known
    tree = _parsed(text)
    _choices(tree)
    return str(tree)


def known_or_none(text: str) -> str:
    """Return a licence that a model says of itself as an expression; empty for words like `other`.

    What a file says is no one's mistake here.
    """
    try:
        return canonical(text)
    except BadExpression:
        return ""


def choices(text: str) -> list[Choice]:
    """Return the sets of licences of which a canonical expression asks to obey one."""
    return _choices(_parsed(text)) if text else []


def base_of(licence: str) -> str:
    """Return the id of a licence without its exception."""
    return licence.partition(" WITH ")[0]


def _parsed(text: str) -> Any:
    """Return license-expression's tree with ids that SPDX lists, or own ones."""
    try:
        found = _spdx().parse(_with_known_ids(text), validate=False)
    except Exception as error:  # the library raises AttributeError for some broken expressions
        raise BadExpression(
            f"`{text}` is no SPDX expression such as `Apache-2.0`, `MIT OR Apache-2.0`, or "
            "`LicenseRef-ours` for your own"
        ) from error
    for symbol in _spdx().unknown_license_keys(found):
        if not symbol.startswith(_OWN) or not _is_reference(symbol):
            raise BadExpression(f"SPDX lists no licence `{symbol}`: {_hint(symbol)}")
    return found


def _with_known_ids(text: str) -> str:
    words = text.replace("(", " ( ").replace(")", " ) ").split()
    return " ".join(word if word in ("AND", "OR", "WITH") else id_of(word) for word in words)


def _is_reference(symbol: str) -> bool:
    name = symbol.removeprefix(_OWN)
    return bool(name) and all(each.isascii() and (each.isalnum() or each in "-.") for each in name)


def _hint(symbol: str) -> str:
    nearest = closest(symbol, sorted(rows()))
    own = "terms that SPDX does not list are written `LicenseRef-NAME`"
    return f"{nearest}; {own}" if nearest.startswith("did you mean") else own


@cache
def _spdx() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _choices(tree: Any) -> list[Choice]:
    kind = type(tree).__name__
    if kind == "OR":
        found = [choice for each in tree.args for choice in _choices(each)]
    elif kind == "AND":
        parts = [_choices(each) for each in tree.args]
        found = []
        for several in product(*parts):
            found.append(frozenset().union(*several))
            if len(found) > MOST_CHOICES:
                break
    else:
        found = [frozenset({str(tree)})]
    if len(found) > MOST_CHOICES:
        raise BadExpression(f"more than {MOST_CHOICES} choices in `{tree}`")
    return list(dict.fromkeys(found))
