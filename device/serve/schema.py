"""Translation of a JSON schema into the grammar (GBNF) of the texts that it describes.

shapes.py says which keys are understood and which ones are annotations, combining.py what schemas
mean that must hold together, containers.py how objects and lists are written, notation.py how names
and values are. Any other key that would restrict an answer is refused by name: an answer that only
half follows its schema is worse than none. Properties come in the schema's order, and no others are
allowed. The size of a grammar is bounded, however a schema refers to itself. A schema has passed
body.py: its texts are valid and its numbers finite. Standard library only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from device.engine.base import FieldError
from device.engine.waiting import quoted
from device.manifest.markups import ID, ID_CHARS, Markup
from device.serve.combining import Endings, told_apart
from device.serve.containers import Containers
from device.serve.gbnf import times
from device.serve.notation import Notation
from device.serve.plain import number_body, string_body
from device.serve.references import References
from device.serve.rules import Rules
from device.serve.shapes import (
    BOUNDS,
    KEYS,
    apart,
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
        self._rules = Rules()
        self._notation = Notation(self._rules, quote)
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
        self._containers = Containers(self._rules, self._notation, self._references, self._value)

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
        return self._rules.text(root, self._notation.texts() or _COMPACT)

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
            return self._one_of(
                self._notation.value(each, where) for each in listed_values(schema, where)
            )

        return self._typed(schema, where, depth)

    def _typed(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        kinds = kinds_of(schema, where)
        only(schema, {"type"}.union(*(KEYS[kind] for kind in kinds)), where)
        if not kinds:
            return self._containers.anything()
        return self._one_of(self._kind(kind, schema, where, depth) for kind in kinds)

    def _kind(self, kind: str, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if kind in ("object", "array"):
            self._level += 1
            body = self._containers.body(kind, schema, where, depth)
            self._level -= 1
            return body

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


def _with_id(text: str) -> str:
    """Return the part of a markup's text, any id in its place."""
    before, found, after = text.partition(ID)
    if not found:
        return quoted(text)
    return f"{quoted(before)} [a-zA-Z0-9]{{{ID_CHARS}}} {quoted(after)}"
