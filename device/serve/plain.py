"""Strings and numbers of a JSON schema, as parts of llama.cpp's grammars (GBNF).

The rule to keep: a key that restricts a value is held to, or refused with its place. Standard
library only.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from device.engine.waiting import quoted
from device.serve.formats import ANY_TEXT, FORMATS, NUMBERS, WRITTEN
from device.serve.gbnf import Bounds, integers, times
from device.serve.numbers import Range, decimal, multiples
from device.serve.pattern import PatternError, grammar_of
from device.serve.shapes import bounds, refused

Rule = Callable[[str], str]


def string_body(schema: Mapping[str, Any], where: str, rule: Rule, quote: str = "") -> str:
    """Return the body of the rule of strings; `rule` names a part of it as a rule.

    They are written as in JSON, or raw between two quotes (braces.py).
    """
    mark = quoted(quote or '"')
    least, most = bounds(schema, "minLength", "maxLength", where)
    form = schema.get("format", "password")
    if "pattern" in schema and schema["pattern"] != WRITTEN.get(str(form)):
        body = _pattern(schema["pattern"], (least, most), (where, quote[:1]), rule)
        return f"{mark} {body} {mark}"
    if isinstance(form, str) and form in FORMATS:
        known = FORMATS[form]
        if known.least < least or (most is not None and known.most > most):
            raise refused(where, f"`format` {form!r} is not understood beside these lengths")
        return f"{mark} {known.grammar} {mark}"
    if not isinstance(form, str) or form not in ANY_TEXT:
        raise refused(where, f"`format` {str(form)[:40]!r} is not understood here")
    if (least, most) == (0, None):
        return "string"

    # Of the raw texts' two kinds of `char` one has two characters, and here they are counted.
    char = rf"[^{quote[0]}\x00]" if quote else "char"
    return f"{mark} {char}{times(least, most)} {mark}"


def _pattern(
    pattern: Any, lengths: "tuple[int, int | None]", of: "tuple[str, str]", rule: Rule
) -> str:
    """Return the part of strings that match a regular expression; `of` is their place, and the
    character that they are written without.

    A format beside it is a hint then.
    """
    where, raw = of
    if not isinstance(pattern, str):
        raise refused(f"{where}.pattern", "must be a text")
    try:
        return grammar_of(pattern, rule, *lengths, raw=raw)
    except PatternError as error:
        raise refused(f"{where}.pattern", f"is not understood: {error}") from error


def number_body(kind: str, schema: Mapping[str, Any], where: str) -> str:
    """Return the body of the rule of numbers within bounds, or of the multiples of one."""
    within = _range(schema, where)
    ends = (within.low, within.high)
    if "multipleOf" in schema:
        step = decimal(schema["multipleOf"])
        if not step or step < 0:
            raise refused(f"{where}.multipleOf", "must be a number above 0")
        body = multiples(step, within, whole=kind == "integer")
    elif kind == "integer":
        body = _integers(within)
    elif all(end is None or end == int(end) for end in ends):
        low, high = (None if end is None else int(end) for end in ends)
        body = Bounds(low, high, low_out=within.low_out, high_out=within.high_out).piece()
    else:
        body = within.piece()

    if not body:
        what = "no number lies between its bounds"
        if "multipleOf" in schema:
            what = "`multipleOf` is not understood with these bounds"
        raise refused(where, what)

    return body


def _range(schema: Mapping[str, Any], where: str) -> Range:
    """Return the bounds of a number."""
    low = _bound(schema, ("minimum", "exclusiveMinimum"), where)
    high = _bound(schema, ("maximum", "exclusiveMaximum"), where)
    form = schema.get("format")
    if form is not None and (not isinstance(form, str) or form not in NUMBERS):
        raise refused(where, f"`format` {str(form)[:40]!r} is not understood here")
    least, most = NUMBERS.get(form or "float") or (None, None)
    if least is not None and (low[0] is None or low[0] < least):
        low = (Decimal(least), False)
    if most is not None and (high[0] is None or high[0] > most):
        high = (Decimal(most), False)
    return Range(low[0], high[0], low[1], high[1])


def _bound(
    schema: Mapping[str, Any], keys: "tuple[str, str]", where: str
) -> "tuple[Decimal | None, bool]":
    """Return the bound that restricts more, and whether it is excluded itself."""
    found: "list[Decimal | None]" = []
    for key in keys:
        value = schema.get(key)
        if isinstance(value, bool) and key.startswith("exclusive"):
            continue  # OpenAPI 3.0 says so of the other key
        found.append(decimal(value) if key in schema else None)
        if key in schema and found[-1] is None:
            raise refused(f"{where}.{key}", "must be a number with at most 12 decimals")

    including = found[0]
    if len(found) == 1:
        return including, schema[keys[1]]
    excluding = found[1]
    if including is None or excluding is None:
        return (including, False) if excluding is None else (excluding, True)
    bound = (max if keys[0] == "minimum" else min)(including, excluding)
    return bound, bound == excluding


def _integers(within: Range) -> str:
    """Return the part of the whole numbers in a range."""
    low, high = within.low, within.high
    if low is not None:
        low = low.to_integral_value("ROUND_CEILING") + (within.low_out and low == int(low))
    if high is not None:
        high = high.to_integral_value("ROUND_FLOOR") - (within.high_out and high == int(high))
    return integers(None if low is None else int(low), None if high is None else int(high))
