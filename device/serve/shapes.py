"""The values that a JSON schema allows, and the refusal of keys that are not understood.

Standard library only.
"""

from collections.abc import Mapping
from typing import Any

from device.engine.base import FieldError
from device.serve.gbnf import literal, whole

MAX_REPEATS = 1000
ABOUT = frozenset(
    {
        *("title", "description", "default", "example", "examples", "deprecated"),
        *("readOnly", "writeOnly", "discriminator", "externalDocs"),
        *("contentEncoding", "contentMediaType", "contentSchema"),
        *("enumNames", "enumDescriptions", "markdownDescription", "strict"),
        *("$schema", "$id", "$anchor", "$comment", "$vocabulary", "$defs", "definitions"),
    }
)
"""Keys that are annotations and restrict nothing (JSON Schema 2020-12, OpenAPI, editors; Home
Assistant writes `strict` into schemas); so are `x-…`."""
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
KEYS: dict[str, set[str]] = {
    "object": {
        *("properties", "required", "additionalProperties", "unevaluatedProperties"),
        *("propertyNames", "patternProperties", "minProperties", "maxProperties"),
    },
    "array": {"items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"},
    "string": {"minLength", "maxLength", "format", "pattern"},
    "integer": {*BOUNDS, "multipleOf", "format"},
    "number": {*BOUNDS, "multipleOf", "format"},
    "boolean": set(),
    "null": set(),
}
"""Type → the keys that may restrict it."""


def kinds_of(schema: Mapping[str, Any], where: str) -> list[str]:
    """Return the types that a schema names, or the one that its keys belong to.

    Empty if it names none.
    """
    if "type" not in schema:
        about = [
            kind for kind in ("object", "array", "string", "number") if KEYS[kind] & set(schema)
        ]
        return about[:1]

    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not kinds or not all(isinstance(kind, str) and kind in KEYS for kind in kinds):
        raise refused(f"{where}.type", f"must be one of {', '.join(KEYS)}")

    return kinds


def listed_values(schema: Mapping[str, Any], where: str) -> list[Any]:
    """Return the values of `enum` and `const` that have the schema's type.

    Raise FieldError if none has.
    """
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, list) or not values:
        raise refused(f"{where}.enum", "must be a list of values")

    kinds = kinds_of(schema, where) if "type" in schema else list(KEYS)
    allowed = [
        value
        for value in values
        if any(is_a(kind, value) for kind in kinds)
        and ("const" not in schema or literal(value) == literal(schema["const"]))
    ]
    if not allowed:
        key = "enum" if "enum" in schema else "const"
        both = " and `const`" if {"enum", "const"} <= set(schema) else ""
        raise refused(where, f"no value of `{key}`{both} is of its `type`")

    return allowed


def is_a(kind: str, value: Any) -> bool:
    """Say whether a value has a JSON type; 1.0 is an integer too."""
    if kind in ("integer", "number"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (kind == "number" or whole(value) is not None)
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    return isinstance(value, types[kind])


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether no value fits both schemas; False if that cannot be decided."""
    values = [_values_of(each) for each in (one, other)]
    if values[0] is not None and values[1] is not None:
        return not {literal(v) for v in values[0]} & {literal(v) for v in values[1]}

    kinds = [possible_kinds(each) for each in (one, other)]
    if not kinds[0] & kinds[1]:
        return True
    if kinds[0] | kinds[1] != {"object"}:
        return False

    return _objects_apart(one, other)


def _objects_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether a property tells two objects apart.

    Its values differ, or one object cannot have it.
    """
    ours = one.get("properties") or {}
    theirs = other.get("properties") or {}
    we_need = set(one.get("required") or [])
    they_need = set(other.get("required") or [])

    both_need = we_need & they_need
    if any(apart(ours.get(name) or {}, theirs.get(name) or {}) for name in both_need):
        return True

    return bool(we_need - set(theirs)) and bool(they_need - set(ours))


def _values_of(schema: Mapping[str, Any]) -> "list[Any] | None":
    return [schema["const"]] if "const" in schema else schema.get("enum")


def possible_kinds(schema: Mapping[str, Any]) -> set[str]:
    """Return the types that values of a schema can have; `number` for integers too."""
    values = _values_of(schema)
    if values is not None:
        kinds = {kind for kind in KEYS for value in values if is_a(kind, value)}
    else:
        kinds = (
            set(kinds_of(schema, "schema"))
            if not {"anyOf", "oneOf", "allOf"} & set(schema)
            else set()
        )
        kinds = kinds or set(KEYS)

    kinds |= {"null"} if schema.get("nullable") else set()
    return {"number" if kind == "integer" else kind for kind in kinds}


def schemas(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise refused(where, "must be a list of schemas")
    return value


def bounds(
    schema: Mapping[str, Any], lower: str, upper: str, where: str
) -> "tuple[int, int | None]":
    """Return two bounds of a schema, such as `minItems` and `maxItems`; None if unbounded above.

    Raise FieldError if they are not whole numbers in order, or the lower one is too large for a
    grammar.
    """
    found = {name: schema[name] for name in (lower, upper) if name in schema}
    for name, value in found.items():
        if whole(value) is None or value < 0:
            raise refused(f"{where}.{name}", "must be a whole number from 0 on")
    if found.get(lower, 0) > MAX_REPEATS:
        raise refused(f"{where}.{lower}", f"must be at most {MAX_REPEATS}")

    least = int(found.get(lower, 0))
    most = found.get(upper)
    if most is not None and least > most:
        raise refused(f"{where}.{lower}", f"is greater than `{upper}`")

    # An answer of a thousand parts fits a schema that allows more.
    return least, None if most is None else min(int(most), MAX_REPEATS)


def is_about(key: str) -> bool:
    """Say whether a key is an annotation, which restricts nothing."""
    return key in ABOUT or key.startswith("x-")


def is_nothing(schema: Any) -> bool:
    """Say whether no value fits a schema: false, or what zod writes for `never`."""
    return schema is False or (isinstance(schema, dict) and schema.get("not") in ({}, True))


def only(schema: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [key for key in schema if key not in known and not is_about(key)]
    if unknown:
        raise refused(where, f"`{min(unknown)[:80]}` is not understood here")


def refused(where: str, problem: str) -> FieldError:
    return FieldError("response_format", f"{where}: {problem}", code="unsupported_schema")
