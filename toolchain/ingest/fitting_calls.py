"""Arguments of a call against its tool's JSON schema, put into the schema's order.

The board's grammar writes properties in the schema's order and no others, so that is what is
learned. Keywords that the board does not know are refused there (docs/fields.md).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from toolchain.errors import ArtifactError

_MOST_REFERENCES = 32
"""Levels of a value: a schema that refers to itself without one is not followed for ever."""


class Misfit(ArtifactError):  # noqa: N818 - a name, not a suffix
    """A value that its schema does not allow."""


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
}
_BOUNDS: Mapping[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": ("number", lambda value, bound: value >= bound),
    "maximum": ("number", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound),
    "exclusiveMaximum": ("number", lambda value, bound: value < bound),
    "multipleOf": ("number", lambda value, bound: value % bound == 0),
    "minLength": ("string", lambda value, bound: len(value) >= bound),
    "maxLength": ("string", lambda value, bound: len(value) <= bound),
    "pattern": ("string", lambda value, bound: re.search(bound, value) is not None),
    "minItems": ("array", lambda value, bound: len(value) >= bound),
    "maxItems": ("array", lambda value, bound: len(value) <= bound),
}


def fitted(value: Any, schema: Any, root: Any, where: str = "arguments", level: int = 0) -> Any:
    """Return a value in its schema's order; raise Misfit with the place of what does not fit."""
    if not isinstance(schema, dict):
        if schema is False:
            raise Misfit(f"`{where}` is not allowed")
        return value
    if level > _MOST_REFERENCES:
        raise Misfit(f"`{where}` is nested too deeply")
    if isinstance(reference := schema.get("$ref"), str):
        return fitted(value, _referred(reference, root), root, where, level + 1)

    _check(value, schema, where)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            value = _one_of(value, (schema[key], root), where, level)
    for each in schema.get("allOf") or ():
        value = fitted(value, each, root, where, level + 1)

    if isinstance(value, dict):
        return _object(value, schema, root, (where, level))
    if isinstance(value, list):
        items = schema.get("items", True)
        return [
            fitted(each, items, root, f"{where}[{number}]", level + 1)
            for number, each in enumerate(value)
        ]
    # 5.0 is an integer to JSON Schema, and the grammar of one writes 5.
    return int(value) if isinstance(value, float) and _is_integer(schema) else value


def _is_integer(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "integer"


def _check(value: Any, schema: Mapping[str, Any], where: str) -> None:
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    known = [kind for kind in kinds if kind in _KINDS]
    if known and not any(_KINDS[kind](value) for kind in known):
        raise Misfit(f"`{where}` must be of type {' or '.join(known)}")
    if "const" in schema and not _same(value, schema["const"]):
        raise Misfit(f"`{where}` is another value than the schema's `const`")
    listed = schema.get("enum")
    if isinstance(listed, list) and not any(_same(value, each) for each in listed):
        raise Misfit(f"`{where}` is none of the schema's `enum`")
    for key, (kind, holds) in _BOUNDS.items():
        if key in schema and _KINDS[kind](value) and not _holds(holds, value, schema[key]):
            raise Misfit(f"`{where}` does not keep to `{key}` of the schema")


def _same(one: Any, other: Any) -> bool:
    # To Python True is 1; to JSON it is not.
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _holds(holds: Callable[[Any, Any], bool], value: Any, bound: Any) -> bool:
    try:
        return holds(value, bound)
    except (TypeError, ValueError, ArithmeticError, re.error) as error:
        raise Misfit(f"the schema holds a bound that is none: {error}") from error


def _one_of(value: Any, choices: tuple[Any, Any], where: str, level: int) -> Any:
    schemas, root = choices
    for each in schemas:
        try:
            return fitted(value, each, root, where, level + 1)
        except Misfit:
            continue
    raise Misfit(f"`{where}` fits none of the schema's choices")


def _object(value: dict[str, Any], schema: Any, root: Any, at: tuple[str, int]) -> dict[str, Any]:
    where, level = at
    own = schema.get("properties")
    properties: Mapping[str, Any] = own if isinstance(own, dict) else {}
    for name in schema.get("required") or ():
        if name not in value:
            raise Misfit(f"`{where}.{name}` is missing")

    choices = any(key in schema for key in ("anyOf", "oneOf", "allOf"))
    others = schema.get("additionalProperties", bool(choices and not properties))
    unknown = next((name for name in value if name not in properties), None)
    if unknown is not None and others is False:
        raise Misfit(f"`{where}.{unknown[:60]}` is not a property of the schema")
    named = {
        name: fitted(value[name], each, root, f"{where}.{name}", level + 1)
        for name, each in properties.items()
        if name in value
    }
    more = {
        name: fitted(each, others, root, f"{where}.{name}", level + 1)
        for name, each in value.items()
        if name not in properties
    }
    return {**named, **more}


def _referred(reference: str, root: Any) -> Any:
    found = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            raise Misfit(f"the schema refers to `{reference[:60]}`, which is not there")
        found = found[key]
    return found
