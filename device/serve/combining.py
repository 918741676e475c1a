"""JSON schemas that must hold together (`allOf`, and keys beside `$ref` or `anyOf`), as one schema.

The rule to keep: a value that fits the one schema fits all of them. What cannot be put together is
refused by its key. Standard library only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device.serve.gbnf import literal
from device.serve.shapes import (
    KEYS,
    is_about,
    is_nothing,
    kinds_of,
    listed_values,
    refused,
    schemas,
)

Schema = Mapping[str, Any]
Resolve = Callable[[Any, str], Any]
"""Returns the schema that a reference names; the second argument is the reference's place."""
_MAX_STEPS = 64
_MAX_LOOKS = 5000
"""Maximum number of schemas that are looked at for one that refers to itself."""
_GREATER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_SMALLER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}
_TOGETHER = {"items", "propertyNames"}
"""Keys whose schemas must hold together too."""


def merged(parts: Sequence[Any], resolve: Resolve, where: str) -> dict[str, Any]:
    """Return the schema of values that fit all parts; raise FieldError if none can be written."""
    one: dict[str, Any] = {}
    flat = _flat(parts, resolve, where)
    split = [(part, key) for part in flat for key in ("anyOf", "oneOf") if key in part]
    if len(split) > 1:
        raise refused(where, f"two `{split[1][1]}` that must hold together are not understood here")
    for part in flat:
        own = {key: value for key, value in part.items() if key not in ("anyOf", "oneOf")}
        one = _both(one, own, where)
    if not split:
        return one

    part, key = split[0]
    choices = schemas(part[key], f"{where}.{key}")
    return {key: [{"allOf": [choice, one]} for choice in choices] if one else choices}


def _flat(parts: Sequence[Any], resolve: Resolve, where: str) -> list[Schema]:
    """Return parts without references and without `allOf`."""
    flat: list[Schema] = []
    left = list(reversed(parts))
    for _ in range(_MAX_STEPS):
        if not left:
            return flat
        part = left.pop()
        if part is True:
            continue
        if not isinstance(part, dict):
            raise refused(where, "must be an object")
        if "$ref" in part:
            left.append({key: value for key, value in part.items() if key != "$ref"})
            left.append(resolve(part["$ref"], f"{where}.$ref"))
        elif "allOf" in part:
            left.append({key: value for key, value in part.items() if key != "allOf"})
            left.extend(reversed(schemas(part["allOf"], f"{where}.allOf")))
        elif restricts := {k: v for k, v in part.items() if not is_about(k)}:
            flat.append(restricts)

    raise refused(where, "holds too many schemas together, or refers to itself")


def _both(one: Schema, other: Schema, where: str) -> dict[str, Any]:
    """Return the schema of values that fit two schemas without references."""
    joined = {**one, **other}
    for key in one.keys() & other.keys():
        joined[key] = _joined(key, one[key], other[key], where)

    closed = [each for each in (one, other) if _is_closed(each)]
    if closed and "properties" in joined:
        allowed = [set(each.get("properties") or {}) for each in closed]
        names = set.intersection(*allowed)
        joined["properties"] = {k: v for k, v in joined["properties"].items() if k in names}
    if "nullable" in joined and not (one.get("nullable", not one) and other.get("nullable")):
        joined["nullable"] = False
    return joined


def _is_closed(schema: Schema) -> bool:
    """Say whether objects have no names but those of `properties`."""
    return "properties" in schema and is_nothing(schema.get("additionalProperties", True))


def _joined(key: str, one: Any, other: Any, where: str) -> Any:
    """Return the value of a key that two schemas have."""
    if literal(one) == literal(other):
        return one
    if key == "type":
        return _kinds(one, other, where)
    if key == "properties" and isinstance(one, dict) and isinstance(other, dict):
        shared = one.keys() & other.keys()
        return {
            **one,
            **other,
            **{name: {"allOf": [one[name], other[name]]} for name in shared},
        }
    if key == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if key == "enum" and isinstance(one, list) and isinstance(other, list):
        known = {literal(value) for value in other}
        return [value for value in one if literal(value) in known]
    if key in _GREATER | _SMALLER and _are_numbers(one, other):
        return max(one, other) if key in _GREATER else min(one, other)
    if key in _TOGETHER:
        return {"allOf": [one, other]}
    if key == "additionalProperties":
        nothing = is_nothing(one) or is_nothing(other)
        return False if nothing else {"allOf": [one, other]}
    if key in ("uniqueItems", "nullable"):
        return one or other if key == "uniqueItems" else one and other
    raise refused(where, f"two `{key[:80]}` that must hold together are not understood here")


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in values)


def _kinds(one: Any, other: Any, where: str) -> list[str]:
    """Return the types that two schemas share; an integer is a number too."""
    ours, theirs = (kinds_of({"type": each}, where) for each in (one, other))
    shared = [kind for kind in KEYS if _takes(ours, kind) and _takes(theirs, kind)]
    if not shared:
        raise refused(where, "no value has the types of all schemas that must hold")
    return [kind for kind in shared if kind != "integer" or "number" not in shared]


def _takes(kinds: Sequence[str], kind: str) -> bool:
    return kind in kinds or (kind == "integer" and "number" in kinds)


def told_apart(choices: Sequence[Schema]) -> list[Schema]:
    """Return choices of `oneOf` with the property required that tells them apart, if there is one.

    pydantic and OpenAPI name it in `discriminator`, and do not require it where it has a default.
    """
    properties = [choice.get("properties") for choice in choices]
    first = properties[0]
    if not isinstance(first, dict):
        return list(choices)
    for name in first:
        told = [_fixed(each.get(name)) if isinstance(each, dict) else [] for each in properties]
        seen = [value for values in told for value in values]
        if all(told) and len(set(seen)) == len(seen):
            return [
                {**each, "required": [*dict.fromkeys([*_names(each.get("required")), name])]}
                for each in choices
            ]
    return list(choices)


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _fixed(schema: Any) -> list[str]:
    """Return the values that a schema lists, as text; empty if it does not list them."""
    if not isinstance(schema, dict) or not schema.keys() & {"const", "enum"}:
        return []
    return [literal(value) for value in listed_values(schema, "schema")]


class Endings:
    """Says whether values of schemas that refer to themselves can ever be whole."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._left = _MAX_LOOKS
        self._known: set[str] = set()
        """References whose schemas have values."""

    def ends(self, schema: Any, opened: "tuple[str, ...]" = ()) -> bool:
        """Say it of one schema; `opened` are the references that lead to it."""
        self._left -= 1
        if self._left < 0:
            raise refused("schema", "is too large: it refers to itself in too many ways")
        if not isinstance(schema, dict) or schema.get("nullable") is True:
            return True
        if "$ref" in schema:
            return self._target_ends(str(schema["$ref"]), opened)

        for key, holds in (("anyOf", any), ("oneOf", any), ("allOf", all)):
            if isinstance(schema.get(key), list):
                return bool(holds(self.ends(each, opened) for each in schema[key]))
        return all(self.ends(each, opened) for each in _needed(schema))

    def _target_ends(self, target: str, opened: "tuple[str, ...]") -> bool:
        if target in self._known:
            return True
        if target in opened or not self.ends(self._resolve(target, "$ref"), (*opened, target)):
            return False
        self._known.add(target)
        return True


def _needed(schema: Schema) -> "list[Any]":
    """Return the schemas that every value of a schema has a value of."""
    kinds = kinds_of(schema, "schema")
    properties = schema.get("properties")
    if kinds == ["object"] and isinstance(properties, dict):
        return [properties[name] for name in _names(schema.get("required")) if name in properties]
    if kinds == ["array"] and isinstance(schema.get("prefixItems"), list):
        return list(schema["prefixItems"])
    fewest = schema.get("minItems", 0)
    if kinds == ["array"] and isinstance(fewest, int) and fewest > 0:
        return [schema.get("items", True)]
    return []
