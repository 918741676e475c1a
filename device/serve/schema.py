"""A JSON schema to the grammar (GBNF) of the texts that it describes, for answers that programs read.

What is understood: `type` (one or several), `properties` with `required`, `items` with `minItems` and `maxItems`, `minLength` and
`maxLength`, `enum` and `const` of plain values, `anyOf` and `oneOf`, `$ref` into the schema's own `$defs`. Anything else that
would narrow an answer is refused by name: an answer that only half holds to its schema is worse than none. Properties come in the
schema's order and no others do. What a schema may grow to is bounded, however it refers to itself. Standard library only.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from device.engine.base import FieldError

MAX_DEPTH = 16
MAX_VALUES = 2000
MAX_RULES = 512
MAX_REPEATS = 1000
MAX_BYTES = 1 << 16
_FREE_DEPTH = 6
"""Levels of objects and lists in a value whose shape is not described."""
_ABOUT = {
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
}
"""Keys that say something about a value and narrow nothing."""
_CHARACTER = r'[^"\\\x7f\x00-\x1f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})'
_INTEGER = '"-"? ("0" | [1-9] [0-9]{0,15})'
_BASE = {
    "ws": r'(" " | "\n" " "{0,12})?',
    "char": _CHARACTER,
    "string": r'"\"" char* "\""',
    "integer": _INTEGER,
    "number": f'{_INTEGER} ("." [0-9]{{1,15}})? ([eE] [-+]? [0-9]{{1,3}})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_KEYS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "integer": set(),
    "number": set(),
    "boolean": set(),
    "null": set(),
}
"""Type → the keys that may narrow it."""


def any_object() -> str:
    """Return the grammar of any JSON object."""
    return _Writer({}).text({"type": "object"})


def grammar(schema: Any) -> str:
    """Return the grammar of a schema; raise FieldError `response_format` with the place of what is not understood."""
    return _Writer(schema).text(schema)


class _Writer:
    """The rules of one grammar under way."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        self._values = 0

    def text(self, schema: Any) -> str:
        root = self._value(schema, "schema", 0)
        rules = {"root": root, **self._rules, **_BASE}
        text = "".join(f"{name} ::= {body}\n" for name, body in rules.items())
        if len(text) > MAX_BYTES:
            raise _refused(
                "schema", f"is too large: its grammar has more than {MAX_BYTES >> 10} KiB"
            )
        return text

    def _rule(self, body: str) -> str:
        """Return the name of a rule."""
        for name, known in self._rules.items():
            if known == body:
                return name
        if len(self._rules) >= MAX_RULES:
            raise _refused("schema", f"is too large: it needs more than {MAX_RULES} rules")
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _value(self, schema: Any, where: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise _refused(where, f"is nested deeper than {MAX_DEPTH} levels, or refers to itself")
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise _refused(where, "must be an object")
        self._values += 1
        if self._values > MAX_VALUES:
            raise _refused("schema", f"is too large: it describes more than {MAX_VALUES} values")
        whole = {
            "$ref": self._reference,
            "enum": self._enum,
            "const": self._const,
            "anyOf": self._any,
            "oneOf": self._any,
        }
        for key in whole.keys() & schema.keys():
            _only(schema, {key, "type"} if key in ("enum", "const") else {key}, where)
            return whole[key](schema[key], f"{where}.{key}", depth + 1)
        return self._typed(schema, where, depth)

    def _typed(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if "type" not in schema:
            _only(schema, set(), where)
            return self._free(0)
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not kinds or not all(isinstance(kind, str) and kind in _KEYS for kind in kinds):
            raise _refused(f"{where}.type", f"must be one of {', '.join(_KEYS)}")
        _only(schema, {"type"}.union(*(_KEYS[kind] for kind in kinds)), where)
        return self._one_of(self._kind(kind, schema, where, depth) for kind in kinds)

    def _kind(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if kind == "object":
            return (
                self._object(schema, where, depth)
                if schema.get("properties")
                else self._free_object(schema, where)
            )
        if kind == "array":
            return self._array(schema, where, depth)
        return self._string(schema, where) if kind == "string" else kind

    def _reference(self, target: Any, where: str, depth: int) -> str:
        found: Any = self._schema
        for part in (
            target.split("/")[1:] if isinstance(target, str) and target.startswith("#/") else [None]
        ):
            found = found.get(part) if isinstance(found, dict) else None
        if found is None:
            raise _refused(where, f"`{str(target)[:80]}` is not in this schema")
        return self._value(found, where, depth)

    def _enum(self, values: Any, where: str, depth: int) -> str:
        if (
            not isinstance(values, list)
            or not values
            or any(isinstance(value, (dict, list)) for value in values)
        ):
            raise _refused(where, "must be a list of texts, numbers, true, false or null")
        return self._one_of(_literal(json.dumps(value, ensure_ascii=False)) for value in values)

    def _const(self, value: Any, where: str, depth: int) -> str:
        return self._enum([value], where, depth)

    def _any(self, choices: Any, where: str, depth: int) -> str:
        if not isinstance(choices, list) or not choices:
            raise _refused(where, "must be a list of schemas")
        return self._one_of(
            self._value(choice, f"{where}[{number}]", depth)
            for number, choice in enumerate(choices)
        )

    def _one_of(self, bodies: Iterable[str]) -> str:
        choices = list(dict.fromkeys(bodies))
        return choices[0] if len(choices) == 1 else self._rule(" | ".join(choices))

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties, required = schema["properties"], schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _refused(where, "`properties` must be an object and `required` a list")
        if lost := [name for name in required if name not in properties]:
            raise _refused(
                f"{where}.required", f"`{str(lost[0])[:80]}` is not among the properties"
            )
        if not isinstance(schema.get("additionalProperties", False), bool):
            raise _refused(f"{where}.additionalProperties", "must be true or false")
        pairs = [
            (_pair(name, self._value(inner, f"{where}.{name}"[:200], depth + 1)), name in required)
            for name, inner in properties.items()
        ]
        return self._rule(f'"{{" ws {self._pairs(pairs)} ws "}}"')

    def _pairs(self, pairs: list[tuple[str, bool]]) -> str:
        """Return the rule for pairs of which the optional ones may be missing, with commas between those that are there."""
        first, later = '""', '""'
        for pair, required in reversed(pairs):
            begins, goes_on = f"{pair} {later}", f'"," ws {pair} {later}'
            first, later = (
                self._rule(begins if required else f"{begins} | {first}"),
                self._rule(goes_on if required else f"{goes_on} | {later}"),
            )
        return first

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        least, most = _bounds(schema, "minItems", "maxItems", where)
        if most == 0:
            return '"[" ws "]"'
        item = self._value(schema.get("items", True), f"{where}.items", depth + 1)
        more = self._rule(f'"," ws {item}')
        items = f"{item} {more}{_times(max(0, least - 1), None if most is None else most - 1)}"
        return self._rule(f'"[" ws {items} ws "]"' if least else f'"[" ws ({items} ws)? "]"')

    def _string(self, schema: Mapping[str, Any], where: str) -> str:
        least, most = _bounds(schema, "minLength", "maxLength", where)
        return (
            "string"
            if (least, most) == (0, None)
            else self._rule(rf'"\"" char{_times(least, most)} "\""')
        )

    def _free_object(self, schema: Mapping[str, Any], where: str) -> str:
        _only(schema, {"type", *_KEYS["array"], *_KEYS["string"], "properties", "required"}, where)
        if schema.get("required"):
            raise _refused(
                f"{where}.required",
                f"`{str(schema['required'][0])[:80]}` is not among the properties",
            )
        return self._free_pairs(0)

    def _free_pairs(self, level: int) -> str:
        pair = self._rule(f'string ":" ws {self._free(level + 1)}')
        return self._rule(f'"{{" ws ({pair} ("," ws {pair})* ws)? "}}"')

    def _free(self, level: int) -> str:
        """Return the rule of any value, with so many levels around it."""
        plain = ["string", "number", "boolean", "null"]
        if level > _FREE_DEPTH:
            return self._one_of(plain)
        inner = self._free(level + 1)
        return self._one_of(
            [
                *plain,
                self._free_pairs(level),
                self._rule(f'"[" ws ({inner} ("," ws {inner})* ws)? "]"'),
            ]
        )


def _pair(name: str, value: str) -> str:
    return f'{_literal(json.dumps(name, ensure_ascii=False))} ":" ws {value}'


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _times(least: int, most: "int | None") -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _bounds(
    schema: Mapping[str, Any], lower: str, upper: str, where: str
) -> "tuple[int, int | None]":
    least, most = schema.get(lower, 0), schema.get(upper)
    for name, value in ((lower, least), (upper, most)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or not 0 <= value <= MAX_REPEATS):
            raise _refused(f"{where}.{name}", f"must be a whole number between 0 and {MAX_REPEATS}")
    if most is not None and least > most:
        raise _refused(f"{where}.{lower}", f"is greater than `{upper}`")
    return least, most


def _only(schema: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(schema) - known - _ABOUT):
        raise _refused(where, f"`{unknown[0][:80]}` is not understood here")


def _refused(where: str, problem: str) -> FieldError:
    return FieldError("response_format", f"{where}: {problem}", code="unsupported_schema")
