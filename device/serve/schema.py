"""Translation of a JSON schema into the grammar (GBNF) of the texts that it describes.

shapes.py says which keys are understood and which ones are annotations, combining.py what schemas
mean that must hold together. Any other key that would restrict an answer is refused by name: an
answer that only half follows its schema is worse than none. Properties come in the schema's order,
and no others are allowed. The size of a grammar is bounded, however a schema refers to itself. A
schema has passed body.py: its texts are valid and its numbers finite. Standard library only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from device.engine.base import FieldError
from device.engine.waiting import quoted
from device.manifest.braces import KEY, in_order, is_bare, written
from device.manifest.markups import ID, ID_CHARS, Markup
from device.serve.combining import Endings, told_apart
from device.serve.gbnf import literal, times
from device.serve.plain import number_body, string_body
from device.serve.references import References
from device.serve.rules import Rules
from device.serve.shapes import (
    BOUNDS,
    KEYS,
    apart,
    bounds,
    is_about,
    is_nothing,
    kinds_of,
    listed_values,
    only,
    refused,
    schemas,
)

MAX_DEPTH = 16
MAX_VALUES = 2000
MAX_CHOICES = 64
_TYPED = {"$ref", "anyOf", "oneOf", "allOf"}
"""Keys of a schema that other schemas describe whole."""
_COMPACT = MappingProxyType({"ws": '" "?'})
"""Space in calls: at most as much as `json.dumps` writes, for a model's templates write that."""
_FREE_DEPTH = 6
"""Levels of objects and lists in a value whose shape is not described."""


def grammar(schema: Any) -> str:
    """Return the grammar of a schema.

    Raise FieldError `response_format` with the place of a key or value that is not understood.
    """
    return _Writer(schema).text(schema)


@dataclass(frozen=True)
class Answer:
    """The schema of an answer that calls no tool; any value may be a schema."""

    schema: Any


def calls(
    tools: Mapping[str, Any],
    markup: Markup,
    most: int,
    *,
    whole: bool,
    answer: "Answer | None" = None,
) -> str:
    """Return the grammar of up to `most` calls of tools, each held to its schema.

    `tools` is their names and the schemas of their arguments. Without `whole` the grammar begins
    after the markup's trigger and head; with it, `answer` may come in place of the calls. Raise
    FieldError `tools` with the name of the tool, or `response_format`.
    """
    writer = _Writer({}, markup.quote)
    try:
        bodies = [writer.call(name, schema, markup) for name, schema in tools.items()]
    except FieldError as error:
        raise FieldError("tools", error.problem, code=error.code) from error

    return writer.text_of_calls(bodies, markup, most, whole=whole, answer=answer)


class _Writer:
    """The rules of one grammar while it is built."""

    def __init__(self, schema: Any, quote: str = "") -> None:
        self._quote = quote
        """Token around texts that are written raw, in arguments that are no JSON (braces.py)."""
        self._rules = Rules()
        self._rule = self._rules.named
        self._one_of = self._rules.one_of
        self._values = 0
        self._begin(schema)

    def _begin(self, schema: Any) -> None:
        """Read references from this schema on."""
        self._references = References(schema)
        self._rules_of: dict[str, str] = {}
        """Reference → the name of its rule."""
        self._opened: dict[str, int] = {}
        """Reference whose rule is being written → the level of objects and lists around it."""
        self._level = 0
        self._endings = Endings(self._references.resolved)

    def text(self, schema: Any) -> str:
        """Return the whole grammar of a schema, the rule `root` first."""
        return self._rules.text(self._value(schema, "schema", 0))

    def call(self, name: str, schema: Mapping[str, Any], markup: Markup) -> str:
        """Return the rule of one call, from the tool's name on."""
        self._begin(schema)
        where = f"`{name}`: parameters"
        # A tool without parameters takes none, whatever JSON Schema says of an empty object.
        free = "additionalProperties" not in schema and not schema.get("properties")
        typed = _TYPED & set(schema)
        body = {**schema, "additionalProperties": False} if free and not typed else schema
        if typed:
            body = {key: value for key, value in schema.items() if key != "type"}
        arguments = self._value(body, where, 0)
        return f"{_with_id(name + markup.middle)} {arguments} {_with_id(markup.end)}"

    def text_of_calls(
        self,
        bodies: Iterable[str],
        markup: Markup,
        most: int,
        *,
        whole: bool,
        answer: "Answer | None",
    ) -> str:
        """Return the whole grammar of calls, or of an answer in their place."""
        one = self._one_of(bodies)
        if " " in one:
            one = self._rule(one)
        following = quoted(markup.between + markup.reopening)
        more = f" ({following} {one}){times(0, most - 1)}" if most > 1 else ""
        root = f"{one}{more}"
        if markup.last:
            root += f" {quoted(markup.last)}"
        if whole:
            root = f"{quoted(markup.opening)} {root}"
        if answer:
            self._begin(answer.schema)
            root += f" | {self._value(answer.schema, 'schema', 0)}"
        return self._rules.text(root, _raw_rules(markup.quote) if markup.quote else _COMPACT)

    # Values

    def _value(self, schema: Any, where: str, depth: int) -> str:
        if depth > MAX_DEPTH:
            raise refused(where, f"is nested deeper than {MAX_DEPTH} levels")

        if schema is True:
            schema = {}

        if is_nothing(schema):
            raise refused(where, "no value fits `false`")
        if not isinstance(schema, dict):
            raise refused(where, "must be an object")

        self._values += 1
        if self._values > MAX_VALUES:
            raise refused("schema", f"is too large: it describes more than {MAX_VALUES} values")

        nullable = schema.get("nullable", False)
        if not isinstance(nullable, bool):
            raise refused(f"{where}.nullable", "must be true or false")

        schema = {key: value for key, value in schema.items() if key != "nullable"}
        if nullable and isinstance(schema.get("enum"), list) and None in schema["enum"]:
            schema["enum"] = [each for each in schema["enum"] if each is not None]
            if not schema["enum"]:
                return "null"  # what zod writes for OpenAPI, which has no such type
        body = self._body(schema, where, depth)
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
                if all(other == key or is_about(other) for other in schema):
                    return write(schema[key], f"{where}.{key}", depth + 1)
                return self._value(self._references.together([schema], where), where, depth + 1)

        if "enum" in schema or "const" in schema:
            only(schema, {"enum", "const", "type"}, where)
            return self._one_of(self._literal(each, where) for each in listed_values(schema, where))

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
            body = string_body(schema, where, self._rule, self._quote)
            return body if body == kind else self._rule(body)

        limits = {*BOUNDS, "multipleOf", "format"}
        return self._rule(number_body(kind, schema, where)) if limits & set(schema) else kind

    def _reference(self, target: Any, where: str, depth: int) -> str:
        """Return the name of the rule of a reference, which may stand inside itself."""
        schema = self._references.resolved(target, where)
        if target in self._rules_of:
            if self._opened.get(target) == self._level:
                raise refused(where, "refers to itself, and to nothing else")
            return self._rules_of[target]

        if not self._endings.ends(schema, (target,)):
            raise refused(where, "refers to itself without an end")
        name = self._rules_of[target] = self._rules.promised()
        self._opened[target] = self._level
        self._rules.keep_promise(name, self._value(schema, where, depth))
        del self._opened[target]
        return name

    def _any(self, choices: Any, where: str, depth: int) -> str:
        return self._one_of(
            self._value(choice, f"{where}[{number}]", depth)
            for number, choice in enumerate(schemas(choices, where))
            if not is_nothing(choice)
        )

    def _one(self, choices: Any, where: str, depth: int) -> str:
        """Return the rule of `oneOf`; raise FieldError if two choices fit the same value."""
        if len(schemas(choices, where)) > MAX_CHOICES:
            raise refused(where, f"has more than {MAX_CHOICES} choices to tell apart: use `anyOf`")

        shapes = [self._references.shape(choice, where) for choice in choices]
        told = told_apart(shapes)
        changed = told != shapes
        written = self._any(told if changed else choices, where, depth)
        shapes = told

        for number, shape in enumerate(shapes):
            for other in range(number):
                if not apart(shapes[other], shape):
                    raise refused(
                        where,
                        f"one value may be both [{other}] and [{number}], "
                        "and just one is to hold: use `anyOf`",
                    )

        return written

    def _all(self, parts: Any, where: str, depth: int) -> str:
        if len(schemas(parts, where)) == 1:
            return self._value(parts[0], f"{where}[0]", depth)
        return self._value(self._references.together(parts, where), where, depth)

    # Objects and lists

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties, required, more = self._names(schema, where)
        self._level += 1
        if properties or schema.get("properties"):
            body = self._fixed(properties, required, (schema, where), depth)
        else:
            body = self._map(schema, more, where, depth)
        self._level -= 1
        return body

    def _names(
        self, schema: Mapping[str, Any], where: str
    ) -> "tuple[dict[str, Any], list[str], Any]":
        """Return the properties, those that must come, and the schema of all others."""
        given = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(given, dict) or not isinstance(required, list):
            raise refused(where, "`properties` must be an object and `required` a list")

        more = schema.get("additionalProperties", schema.get("unevaluatedProperties", True))
        if not isinstance(more, (bool, dict)):
            raise refused(f"{where}.additionalProperties", "must be true, false or a schema")

        properties = {key: value for key, value in given.items() if not is_nothing(value)}
        for name in self._listed_names(schema, where):
            properties.setdefault(name, more)
        for name in required:
            if isinstance(name, str) and name not in given and not is_nothing(more):
                properties.setdefault(name, more)
            if not isinstance(name, str) or name not in properties:
                raise refused(
                    f"{where}.required", f"`{str(name)[:80]}` is not among the properties"
                )
        return properties, required, more

    def _listed_names(self, schema: Mapping[str, Any], where: str) -> list[str]:
        """Return the names that `propertyNames` lists one by one."""
        names = self._references.followed(schema.get("propertyNames", {}), where)
        if not {"enum", "const"} & set(names):
            return []
        return [name for name in listed_values(names, where) if isinstance(name, str)]

    def _fixed(
        self,
        properties: Mapping[str, Any],
        required: Sequence[str],
        of: "tuple[Mapping[str, Any], str]",
        depth: int,
    ) -> str:
        """Return the rule of an object with these names; `of` is its schema with its place."""
        schema, where = of
        least, most = bounds(schema, "minProperties", "maxProperties", where)
        needed = [name for name in properties if name in required]
        if len(needed) < least or (most is not None and len(properties) > most):
            # As many as are needed, the first ones, come in any case.
            needed = list(dict.fromkeys([*needed, *properties]))[: max(least, len(needed))]
            kept = needed if most is not None else list(properties)
            if len(needed) < least or (most is not None and len(kept) > most):
                raise refused(where, "has not as many properties as are asked for")
            properties = {name: properties[name] for name in properties if name in kept}
        if "patternProperties" in schema:
            raise refused(where, "`patternProperties` beside `properties` is not understood here")

        if self._quote:
            properties = in_order(properties)
        pairs = [
            (
                self._pair(name, where, self._value(inner, f"{where}.{name}"[:200], depth + 1)),
                name in needed,
            )
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

    def _map(self, schema: Mapping[str, Any], more: Any, where: str, depth: int) -> str:
        """Return the rule of an object with free names."""
        names = schema.get("propertyNames", True)
        patterns = schema.get("patternProperties")
        if patterns:
            if not isinstance(patterns, dict) or len(patterns) > 1 or names is not True:
                raise refused(where, "`patternProperties` is understood with one pattern alone")
            ((pattern, more),) = patterns.items()
            names = {"pattern": pattern}

        least, most = bounds(schema, "minProperties", "maxProperties", where)
        if is_nothing(more) or most == 0:
            if least:
                raise refused(where, "has not as many properties as are asked for")
            return self._rule('"{" ws "}"')

        if names is not True and self._quote:
            raise refused(f"{where}.propertyNames", "is not understood in this model's markup")
        name = self._key() if names is True else self._name(names, f"{where}.propertyNames", depth)
        place = f"{where}.additionalProperties"
        value = self._free(1) if more in (True, {}) else self._value(more, place, depth + 1)
        pair = self._rule(f'{name} ":" ws {value}')
        return self._rule(f'"{{" ws {_list_of(pair, least, most)} ws "}}"')

    def _name(self, names: Any, where: str, depth: int) -> str:
        """Return the rule of a name that a schema describes."""
        described = self._references.followed(names, where)
        if not described or described.get("type", "string") != "string":
            raise refused(where, "must be a schema of texts")
        return self._value({**described, "type": "string"}, where, depth + 1)

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        self._level += 1
        body = self._list(schema, where, depth)
        self._level -= 1
        return body

    def _list(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        least, most = bounds(schema, "minItems", "maxItems", where)
        items = schema.get("items", True)
        if "prefixItems" in schema or isinstance(items, list):
            return self._tuple(schema, where, depth)
        if is_nothing(items):
            most = 0
            if least:
                raise refused(where, "no item fits, and one is asked for")
        if schema.get("uniqueItems", False) is not False and most not in (0, 1):
            return self._set(items, (least, most), where, depth)
        if most == 0:
            return self._rule('"[" ws "]"')

        item = self._value(items, f"{where}.items", depth + 1)
        return self._rule(f'"[" ws {_list_of(item, least, most)} ws "]"')

    def _set(self, items: Any, count: "tuple[int, int | None]", where: str, depth: int) -> str:
        """Return the rule of a list without repeats: listed values alone, in their order."""
        listed = self._references.followed(items, where)
        values = listed_values(listed, where) if {"enum", "const"} & set(listed) else []
        least, most = count
        if not values or least > len(values) or (most is not None and most < len(values)):
            raise refused(where, "`uniqueItems` is understood of `enum`, without `maxItems`")
        self._value(items, f"{where}.items", depth + 1)
        written = [self._literal(value, where) for value in values]
        pairs = [(value, number < least) for number, value in enumerate(written)]
        return self._rule(f'"[" ws {self._pairs(pairs)} ws "]"')

    def _tuple(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        """Return the rule of a list with a schema for each place, and others after them."""
        is_old = isinstance(schema.get("items"), list)  # the form before JSON Schema 2020-12
        key = "items" if is_old else "prefixItems"
        rest = schema.get("additionalItems" if is_old else "items", False)
        places = schemas(schema[key], f"{where}.{key}")
        least, most = bounds(schema, "minItems", "maxItems", where)
        if schema.get("uniqueItems", False) is not False:
            raise refused(where, "`uniqueItems` is not understood here")
        if least > len(places) and is_nothing(rest):
            raise refused(f"{where}.{key}", f"has {len(places)} places, not as many as asked")

        places = places if most is None else places[:most]
        items = [
            self._value(place, f"{where}.{key}[{number}]", depth + 1)
            for number, place in enumerate(places)
        ]
        joined = ' "," ws '.join(items)
        if not is_nothing(rest) and most != len(places):
            item = self._value(rest, f"{where}.items", depth + 1)
            more = self._rule(f'"," ws {item}')
            high = None if most is None else most - len(places)
            joined += f" {more}{times(max(0, least - len(places)), high)}"
        return self._rule(f'"[" ws {joined} ws "]"')

    # How values and names are written

    def _literal(self, value: Any, where: str) -> str:
        """Return the part of one value."""
        if not self._quote:
            return literal(value)
        if self._quote[0] in json.dumps(value, ensure_ascii=False):
            raise refused(where, f"a value with `{self._quote[0]}` is none in this model's markup")
        return quoted(written(value, self._quote))

    def _pair(self, name: str, where: str, value: str) -> str:
        """Return the part of a name and its value."""
        if not self._quote:
            return f'{literal(name)} ":" ws {value}'
        if not is_bare(name):
            raise refused(where, f"`{name[:80]}` is no name in this model's markup")
        return f"{quoted(name + ':')} {value}"

    def _key(self) -> str:
        """Return the part of a name that nobody described."""
        return self._rule(f"{KEY}{{1,64}}") if self._quote else "string"

    # Values without a description

    def _free(self, level: int) -> str:
        """Return the rule of any value with at most `levels` of nesting."""
        plain = ["string", "number", "boolean", "null"]
        if level > _FREE_DEPTH:
            return self._one_of(plain)

        inner = self._free(level + 1)
        listed = self._rule(f'"[" ws ({inner} ("," ws {inner})* ws)? "]"')
        pair = self._rule(f'{self._key()} ":" ws {inner}')
        named = self._rule(f'"{{" ws ({pair} ("," ws {pair})* ws)? "}}"')
        return self._one_of([*plain, named, listed])


def _list_of(item: str, least: int, most: "int | None") -> str:
    """Return the part of a list of parts with commas between them."""
    more = f'("," ws {item}){times(max(0, least - 1), None if most is None else most - 1)}'
    return f"{item} {more}" if least else f"({item} {more})?"


def _with_id(text: str) -> str:
    """Return the part of a markup's text, any id in its place."""
    before, found, after = text.partition(ID)
    if not found:
        return quoted(text)
    return f"{quoted(before)} [a-zA-Z0-9]{{{ID_CHARS}}} {quoted(after)}"


def _raw_rules(quote: str) -> Mapping[str, str]:
    """Return the rules of texts that are written raw, without any part that may be their end."""
    first, second = quote[0], quote[1]
    mark = quoted(quote)
    # A little narrower than "anything but the quote": no text ends with its first character.
    return {
        "ws": '""',
        "char": f'[^{first}\\x00] | "{first}" [^{first}{second}\\x00]',
        "string": f"{mark} char* {mark}",
    }
