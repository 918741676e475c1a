"""Grammar rules (GBNF) of the objects and lists that a JSON schema describes, and of any value.

schema.py writes the values inside them, and calls back here for those that are objects or lists
again. Standard library only.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from device.manifest.braces import in_order
from device.serve.gbnf import times
from device.serve.notation import Notation
from device.serve.references import References
from device.serve.rules import Rules
from device.serve.shapes import bounds, is_nothing, listed_values, refused, schemas

Value = Callable[[Any, str, int], str]
"""Returns the part of a schema's value; `where` is the schema's place, `depth` its level."""
_FREE_DEPTH = 6
"""Levels of objects and lists in a value whose shape is not described."""


class Containers:
    """What writes objects and lists into the rules of one grammar."""

    def __init__(
        self, rules: Rules, notation: Notation, references: References, value: Value
    ) -> None:
        self._rules = rules
        self._rule = rules.named
        self._notation = notation
        self._references = references
        self._value = value

    def body(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> str:
        """Return the rule of an `object` or an `array`."""
        write = self._object if kind == "object" else self._list
        return write(schema, where, depth)

    def anything(self, level: int = 0) -> str:
        """Return the rule of any value, which nobody described, at this level of nesting."""
        plain = ["string", "number", "boolean", "null"]
        if level > _FREE_DEPTH:
            return self._rules.one_of(plain)

        inner = self.anything(level + 1)
        listed = self._rule(f'"[" ws ({inner} ("," ws {inner})* ws)? "]"')
        pair = self._rule(f'{self._notation.key()} ":" ws {inner}')
        named = self._rule(f'"{{" ws ({pair} ("," ws {pair})* ws)? "}}"')
        return self._rules.one_of([*plain, named, listed])

    # Objects

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties, required, more = self._names(schema, where)
        if properties or schema.get("properties"):
            return self._fixed(properties, required, (schema, where), depth)
        return self._map(schema, more, where, depth)

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

        if self._notation.is_raw:
            properties = in_order(properties)
        pairs = [
            (
                self._notation.pair(
                    name, where, self._value(inner, f"{where}.{name}"[:200], depth + 1)
                ),
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

        if names is not True and self._notation.is_raw:
            raise refused(f"{where}.propertyNames", "is not understood in this model's markup")
        name = (
            self._notation.key()
            if names is True
            else self._name(names, f"{where}.propertyNames", depth)
        )
        place = f"{where}.additionalProperties"
        value = self.anything(1) if more in (True, {}) else self._value(more, place, depth + 1)
        pair = self._rule(f'{name} ":" ws {value}')
        return self._rule(f'"{{" ws {_list_of(pair, least, most)} ws "}}"')

    def _name(self, names: Any, where: str, depth: int) -> str:
        """Return the rule of a name that a schema describes."""
        described = self._references.followed(names, where)
        if not described or described.get("type", "string") != "string":
            raise refused(where, "must be a schema of texts")
        return self._value({**described, "type": "string"}, where, depth + 1)

    # Lists

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
        written = [self._notation.value(value, where) for value in values]
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


def _list_of(item: str, least: int, most: "int | None") -> str:
    """Return the part of a list of parts with commas between them."""
    more = f'("," ws {item}){times(max(0, least - 1), None if most is None else most - 1)}'
    return f"{item} {more}" if least else f"({item} {more})?"
