"""Translation of a JSON schema into the grammar (GBNF) of the texts that it describes.

shapes.py says which keys are understood and which ones are annotations. Any other key that would
restrict an answer is refused by name: an answer that only half follows its schema is worse than
none. Properties come in the schema's order, and no others are allowed. The size of a grammar is
bounded, however a schema refers to itself. A schema has passed body.py: its texts are valid and its
numbers finite. Standard library only.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from device.engine.base import FieldError
from device.engine.waiting import quoted
from device.manifest.tool_calls import Markup
from device.serve.gbnf import BASE, FORMATS, Bounds, integers, literal, times, whole
from device.serve.pattern import PatternError, grammar_of
from device.serve.shapes import (
    BOUNDS,
    KEYS,
    apart,
    bounds,
    kinds_of,
    listed_values,
    only,
    refused,
    schemas,
)

MAX_DEPTH = 16
MAX_VALUES = 2000
MAX_RULES = 512
MAX_BYTES = 1 << 16
MAX_CHOICES = 64
_TYPED = {"$ref", "anyOf", "oneOf", "allOf"}
"""Keys of a schema that other schemas describe whole."""
_COMPACT = {"ws": '" "?'}
"""Space in calls: at most as much as `json.dumps` writes, for a model's templates write that."""
_FREE_DEPTH = 6
"""Levels of objects and lists in a value whose shape is not described."""


def any_object() -> str:
    """Return the grammar of any JSON object."""
    return _Writer({}).text({"type": "object"})


def grammar(schema: Any) -> str:
    """Return the grammar of a schema.

    Raise FieldError `response_format` with the place of a key or value that is not understood.
    """
    return _Writer(schema).text(schema)


def calls(tools: Mapping[str, Any], markup: Markup, most: int, *, whole: bool) -> str:
    """Return the grammar of up to `most` calls of tools, each held to its schema.

    `tools` is their names and the schemas of their arguments. Without `whole` the grammar begins
    after the markup's trigger and head. Raise FieldError `tools` with the name of the tool.
    """
    writer = _Writer({})
    try:
        bodies = [writer.call(name, schema, markup) for name, schema in tools.items()]
    except FieldError as error:
        raise FieldError("tools", error.problem, code=error.code) from error

    return writer.text_of_calls(bodies, markup, most, whole=whole)


class _Writer:
    """The rules of one grammar while it is built."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._rules: dict[str, str] = {}
        """Rule body → rule name."""
        self._values = 0
        self._bytes = 0
        """Size of all rules, so that the work ends when they grow too large, not after it."""

    def text(self, schema: Any) -> str:
        """Return the whole grammar of a schema, the rule `root` first."""
        return self._text(self._value(schema, "schema", 0))

    def call(self, name: str, schema: Mapping[str, Any], markup: Markup) -> str:
        """Return the rule of one call, from the tool's name on."""
        self._schema = schema
        where = f"`{name}`: parameters"
        # A tool without parameters takes none, whatever JSON Schema says of an empty object.
        free = "additionalProperties" not in schema and not schema.get("properties")
        typed = _TYPED & set(schema)
        body = {**schema, "additionalProperties": False} if free and not typed else schema
        if typed:
            body = {key: value for key, value in schema.items() if key != "type"}
        arguments = self._value(body, where, 0)
        return f"{quoted(name + markup.middle)} {arguments} {quoted(markup.end)}"

    def text_of_calls(
        self, bodies: Iterable[str], markup: Markup, most: int, *, whole: bool
    ) -> str:
        """Return the whole grammar of calls."""
        begins = markup.trigger + markup.head
        one = self._one_of(bodies)
        if " " in one:
            one = self._rule(one)
        more = f" ({quoted(markup.between + begins)} {one}){times(0, most - 1)}" if most > 1 else ""
        return self._text(f"{quoted(begins)} {one}{more}" if whole else f"{one}{more}", _COMPACT)

    def _text(self, root: str, more: Mapping[str, str] = MappingProxyType({})) -> str:
        """Return a grammar with this body of its rule `root`; `more` replaces rules of all."""
        named = {name: body for body, name in self._rules.items()}
        rules = {"root": root, **named, **BASE, **more}
        text = "".join(f"{name} ::= {body}\n" for name, body in rules.items())
        self._bytes = len(text)
        self._check_size()

        return text

    def _check_size(self) -> None:
        if self._bytes > MAX_BYTES:
            raise refused(
                "schema", f"is too large: its grammar has more than {MAX_BYTES >> 10} KiB"
            )

    def _rule(self, body: str) -> str:
        """Return the name of a rule, which is added if it is new."""
        if body not in self._rules:
            if len(self._rules) >= MAX_RULES:
                raise refused("schema", f"is too large: it needs more than {MAX_RULES} rules")
            self._bytes += len(body)
            self._check_size()
            self._rules[body] = f"r{len(self._rules)}"
        return self._rules[body]

    def _one_of(self, bodies: Iterable[str]) -> str:
        choices = list(dict.fromkeys(bodies))
        return choices[0] if len(choices) == 1 else self._rule(" | ".join(choices))

    # Values

    def _value(self, schema: Any, where: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise refused(where, f"is nested deeper than {MAX_DEPTH} levels, or refers to itself")

        if schema is True:
            schema = {}

        if not isinstance(schema, dict):
            raise refused(where, "must be an object")

        self._values += 1
        if self._values > MAX_VALUES:
            raise refused("schema", f"is too large: it describes more than {MAX_VALUES} values")

        nullable = schema.get("nullable", False)
        if not isinstance(nullable, bool):
            raise refused(f"{where}.nullable", "must be true or false")

        body = self._body({k: v for k, v in schema.items() if k != "nullable"}, where, depth)
        return self._one_of([body, "null"]) if nullable else body

    def _body(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        whole_schemas = {
            "$ref": self._reference,
            "anyOf": self._any,
            "oneOf": self._one,
            "allOf": self._all,
        }
        for key, write in whole_schemas.items():
            if key in schema:
                only(schema, {key}, where)
                return write(schema[key], f"{where}.{key}", depth + 1)

        if "enum" in schema or "const" in schema:
            only(schema, {"enum", "const", "type"}, where)
            return self._one_of(map(literal, listed_values(schema, where)))

        return self._typed(schema, where, depth)

    def _typed(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        kinds = kinds_of(schema, where)
        only(schema, {"type"}.union(*(KEYS[kind] for kind in kinds)), where)
        if not kinds:
            return self._free(0)
        return self._one_of(self._kind(kind, schema, where, depth) for kind in kinds)

    def _kind(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            return self._array(schema, where, depth)
        if kind == "string":
            return self._string(schema, where)

        return self._number(kind, schema, where) if BOUNDS & set(schema) else kind

    def _reference(self, target: Any, where: str, depth: int) -> str:
        return self._value(self._resolved(target, where), where, depth)

    def _resolved(self, target: Any, where: str) -> Any:
        """Return the schema that a reference names: a JSON pointer as a URI fragment (RFC 6901).

        Example: `#/$defs/a~1b`.
        """
        if not isinstance(target, str) or not target.startswith("#"):
            raise refused(where, f"`{str(target)[:80]}` is not in this schema")

        path = unquote(target[1:])
        at: Any = self._schema

        # The pointer of the whole schema is empty, and every other one begins with a slash.
        parts = path.split("/")[1:] if path.startswith("/") or not path else [path]
        for part in parts:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and name in at:
                at = at[name]
            elif isinstance(at, list) and name.isdecimal() and int(name[:9]) < len(at):
                at = at[int(name[:9])]
            else:
                raise refused(where, f"`{target[:80]}` is not in this schema")

        return at

    def _any(self, choices: Any, where: str, depth: int) -> str:
        return self._one_of(
            self._value(choice, f"{where}[{number}]", depth)
            for number, choice in enumerate(schemas(choices, where))
        )

    def _one(self, choices: Any, where: str, depth: int) -> str:
        """Return the rule of `oneOf`; raise FieldError if two choices fit the same value."""
        if len(schemas(choices, where)) > MAX_CHOICES:
            raise refused(where, f"has more than {MAX_CHOICES} choices to tell apart: use `anyOf`")

        written = self._any(choices, where, depth)
        shapes = [self._shape(choice, where) for choice in choices]

        for number, shape in enumerate(shapes):
            for other in range(number):
                if not apart(shapes[other], shape):
                    raise refused(
                        where,
                        f"one value may be both [{other}] and [{number}], "
                        "and just one is to hold: use `anyOf`",
                    )

        return written

    def _shape(self, schema: Any, where: str) -> Mapping[str, Any]:
        """Return a schema with its references followed."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                break
            schema = self._resolved(schema["$ref"], where)

        if not isinstance(schema, dict):
            return {}

        names = schema.get("properties")
        if isinstance(names, dict):
            return {**schema, "properties": {k: self._shape(v, where) for k, v in names.items()}}

        return schema

    def _all(self, parts: Any, where: str, depth: int) -> str:
        if len(schemas(parts, where)) > 1:
            raise refused(where, "more than one schema that must hold is not understood here")
        return self._value(parts[0], f"{where}[0]", depth)

    # Objects and lists

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise refused(where, "`properties` must be an object and `required` a list")

        for name in required:
            if not isinstance(name, str) or name not in properties:
                raise refused(
                    f"{where}.required", f"`{str(name)[:80]}` is not among the properties"
                )

        names = schema.get("propertyNames", True)
        if names is not True:
            _check_names(names, f"{where}.propertyNames")

        more = schema.get("additionalProperties", True)
        if not isinstance(more, (bool, dict)):
            raise refused(f"{where}.additionalProperties", "must be true, false or a schema")
        if not properties:
            return self._map(more, f"{where}.additionalProperties", depth)

        pairs = [
            (_pair(name, self._value(inner, f"{where}.{name}"[:200], depth + 1)), name in required)
            for name, inner in properties.items()
        ]
        return self._rule(f'"{{" ws {self._pairs(pairs)} ws "}}"')

    def _pairs(self, pairs: list[tuple[str, bool]]) -> str:
        """Return the rule of key-value pairs with commas between those that are present.

        Optional pairs may be missing.
        """
        first = '""'
        later = '""'
        for pair, required in reversed(pairs):
            begins = f"{pair} {later}"
            goes_on = f'"," ws {pair} {later}'
            first = self._rule(begins if required else f"{begins} | {first}")
            later = self._rule(goes_on if required else f"{goes_on} | {later}")

        return first

    def _map(self, more: "bool | dict[str, Any]", where: str, depth: int) -> str:
        """Return the rule of an object with free names."""
        if more is False:
            return self._rule('"{" ws "}"')
        if more is True or not more:
            return self._free_pairs(0)
        return self._free_pairs(0, self._value(more, where, depth + 1))

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        least, most = bounds(schema, "minItems", "maxItems", where)
        if schema.get("uniqueItems", False) is not False:
            raise refused(where, "`uniqueItems` is not understood here")
        if "prefixItems" in schema:
            return self._tuple(schema, where, depth)
        if most == 0:
            return '"[" ws "]"'

        item = self._value(schema.get("items", True), f"{where}.items", depth + 1)
        more = self._rule(f'"," ws {item}')
        items = f"{item} {more}{times(max(0, least - 1), None if most is None else most - 1)}"

        return self._rule(f'"[" ws {items} ws "]"' if least else f'"[" ws ({items} ws)? "]"')

    def _tuple(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        """Return the rule of a list with a schema for each place, and no more places."""
        places = schemas(schema["prefixItems"], f"{where}.prefixItems")
        least, most = bounds(schema, "minItems", "maxItems", where)
        if least > len(places) or (most is not None and most < len(places)):
            raise refused(f"{where}.prefixItems", f"has {len(places)} places, not as many as asked")

        items = [
            self._value(place, f"{where}.prefixItems[{number}]", depth + 1)
            for number, place in enumerate(places)
        ]
        joined = ' "," ws '.join(items)
        return self._rule(f'"[" ws {joined} ws "]"')

    # Strings, numbers, and values without a description

    def _string(self, schema: Mapping[str, Any], where: str) -> str:
        least, most = bounds(schema, "minLength", "maxLength", where)
        if "pattern" in schema:
            return self._pattern(schema, where)
        if "format" in schema:
            form = schema["format"]
            if not isinstance(form, str) or form not in FORMATS:
                raise refused(where, f"`format` {str(form)[:40]!r} is not understood here")
            only(schema, {"type", "format"}, where)
            return self._rule(rf'"\"" {FORMATS[form]} "\""')
        if (least, most) == (0, None):
            return "string"

        return self._rule(rf'"\"" char{times(least, most)} "\""')

    def _pattern(self, schema: Mapping[str, Any], where: str) -> str:
        """Return the rule of strings that match a regular expression."""
        pattern = schema["pattern"]
        if not isinstance(pattern, str):
            raise refused(f"{where}.pattern", "must be a text")
        only(schema, {"type", "pattern"}, where)
        try:
            return self._rule(rf'"\"" {grammar_of(pattern, self._rule)} "\""')
        except PatternError as error:
            raise refused(f"{where}.pattern", f"is not understood: {error}") from error

    def _number(self, kind: str, schema: Mapping[str, Any], where: str) -> str:
        """Return the rule of numbers within bounds; the bounds must be whole numbers."""
        found: dict[str, "int | None"] = {}
        for key in sorted(BOUNDS & set(schema)):
            found[key] = whole(schema[key])
            if found[key] is None:
                raise refused(f"{where}.{key}", "is understood where it is a whole number")

        low, low_out = _tighter(found.get("minimum"), found.get("exclusiveMinimum"), max)
        high, high_out = _tighter(found.get("maximum"), found.get("exclusiveMaximum"), min)
        if kind == "integer":
            low = None if low is None else low + low_out
            high = None if high is None else high - high_out
            body = integers(low, high)
        else:
            body = Bounds(low, high, low_out=low_out, high_out=high_out).piece()

        if not body:
            raise refused(where, "no number lies between its bounds")

        return self._rule(body)

    def _free_pairs(self, level: int, value: str = "") -> str:
        pair = self._rule(f'string ":" ws {value or self._free(level + 1)}')
        return self._rule(f'"{{" ws ({pair} ("," ws {pair})* ws)? "}}"')

    def _free(self, level: int) -> str:
        """Return the rule of any value with at most `levels` of nesting."""
        plain = ["string", "number", "boolean", "null"]
        if level > _FREE_DEPTH:
            return self._one_of(plain)

        inner = self._free(level + 1)
        listed = self._rule(f'"[" ws ({inner} ("," ws {inner})* ws)? "]"')
        return self._one_of([*plain, self._free_pairs(level), listed])


def _tighter(
    including: "int | None", excluding: "int | None", choose: Any
) -> "tuple[int | None, bool]":
    """Return the bound that restricts more, and whether it is excluded itself."""
    if including is None or excluding is None:
        return (including, False) if excluding is None else (excluding, True)
    bound = choose(including, excluding)
    return bound, bound == excluding


def _check_names(names: Any, where: str) -> None:
    """Refuse a schema of names that asks for more than strings."""
    if not isinstance(names, dict) or names.get("type", "string") != "string":
        raise refused(where, "must be a schema of texts")
    only(names, {"type"}, where)


def _pair(name: str, value: str) -> str:
    return f'{literal(name)} ":" ws {value}'
