"""Answers held to a schema follow it, whatever the model would say.

Unknown keys are refused by name.
"""

import datetime
import ipaddress
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from device.engine import load
from device.engine.base import Engine, FieldError, Sampling, Settings
from device.serve import gbnf, schema
from tests.fakes.tiny_gguf import tiny_gguf

NAMED = {"type": "string", "minLength": 1, "maxLength": 8}
REPORT = {
    "type": "object",
    "title": "Report",
    "properties": {
        "machine": {"$ref": "#/$defs/Machine"},
        "hot": {"type": "boolean"},
        "note": {"anyOf": [NAMED, {"type": "null"}], "default": None},
    },
    "required": ["machine", "hot"],
    "additionalProperties": False,
    "$defs": {"Machine": {"enum": ["pi-4", 'a "quoted"\\ name', 5, None]}},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    loaded = load(
        tiny_gguf(tmp_path_factory.mktemp("schema") / "random.gguf", context=2048),
        Settings(threads=1),
    )
    yield loaded
    loaded.close()


def answers(engine: Engine, grammar: str) -> list[Any]:
    """Return what a model without sense answers, for several seeds."""
    found = []
    for seed in range(6):
        sampling = Sampling(
            temperature=2, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=1500, grammar=grammar
        )
        *steps, last = engine.generate(list(b"?\n"), sampling)
        if last.finish_reason == "stop":
            found.append(json.loads("".join(step.text for step in steps) + last.text))
    assert found, "no answer ended by itself"
    return found


def is_report(value: Any) -> bool:
    plain = list(value)[:2] == ["machine", "hot"] and set(value) <= {"machine", "hot", "note"}
    noted = value.get("note") is None or 1 <= len(value["note"]) <= 8
    return (
        plain
        and noted
        and value["machine"] in REPORT["$defs"]["Machine"]["enum"]
        and isinstance(value["hot"], bool)
    )


@pytest.mark.parametrize(
    ("described", "holds"),
    [
        (REPORT, is_report),
        ({"type": "integer"}, lambda value: type(value) is int),
        ({"type": "number"}, lambda value: type(value) in (int, float)),
        ({"type": ["boolean", "null"]}, lambda value: value in (True, False, None)),
        ({"const": "just this"}, lambda value: value == "just this"),
        (
            {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4},
            lambda value: 2 <= len(value) <= 4 and set(value) <= {1, 2},
        ),
        (
            {"type": "array", "items": {"type": "null"}, "maxItems": 1},
            lambda value: value in ([], [None]),
        ),
        ({"type": "array", "maxItems": 0}, lambda value: value == []),
        (
            {"type": "object", "properties": {name: {"enum": [1]} for name in "abc"}},
            lambda value: list(value) == sorted(value) and set(value) <= set("abc"),
        ),
        (
            {
                "type": "object",
                "properties": {"b": {"enum": [1]}, "a": {"enum": [2]}},
                "required": ["a"],
            },
            lambda value: value in ({"b": 1, "a": 2}, {"a": 2}),
        ),
    ],
)
def test_every_answer_is_what_the_schema_describes(
    engine: Engine, described: Any, holds: Any
) -> None:
    found = answers(engine, schema.grammar(described))
    assert [value for value in found if not holds(value)] == []


UNION = {
    "$defs": {
        "Cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
        "Dog": {
            "type": "object",
            "properties": {"kind": {"enum": ["dog"]}, "n": {"enum": [1]}},
            "required": ["kind"],
        },
    },
    "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat"}},
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
}
SHARED = {"Shared/User~1": {"enum": ["a"]}, "per cent %": {"enum": ["b"]}}


@pytest.mark.parametrize(
    ("described", "holds"),
    [
        (UNION, lambda value: value in ({"kind": "cat"}, {"kind": "dog"}, {"kind": "dog", "n": 1})),
        ({"$defs": SHARED, "$ref": "#/$defs/Shared~1User~01"}, lambda value: value == "a"),
        ({"$defs": SHARED, "$ref": "#/%24defs/per%20cent%20%25"}, lambda value: value == "b"),
        ({"anyOf": [{"enum": [1]}, {"$ref": "#/anyOf/0"}]}, lambda value: value == 1),
        ({"type": "integer", "enum": ["a", 2, 3.0, None, True]}, lambda value: value in (2, 3)),
        ({"type": "string", "const": "a", "enum": ["a"]}, lambda value: value == "a"),
        ({"const": {"a": [1, None]}}, lambda value: value == {"a": [1, None]}),
        (
            {"type": "string", "enum": ["x"], "title": "T", "x-order": 1, "examples": [5]},
            lambda value: value == "x",
        ),
        ({"allOf": [{"enum": [4]}], "default": 4, "description": "d"}, lambda value: value == 4),
        ({"type": "boolean", "nullable": True}, lambda value: value in (True, False, None)),
        ({"type": "integer", "minimum": -12, "maximum": 105}, lambda value: -12 <= value <= 105),
        (
            {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
            lambda value: abs(value) <= 9007199254740991,
        ),
        (
            {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3.0},
            lambda value: value in (1, 2),
        ),
        ({"type": "number", "minimum": 0, "maximum": 1}, lambda value: 0 <= value <= 1),
        ({"type": "number", "exclusiveMinimum": -2, "maximum": 0}, lambda v: -2 < v <= 0),
        (
            {
                "type": "object",
                "additionalProperties": {"enum": [7]},
                "propertyNames": {"type": "string"},
            },
            lambda value: set(value.values()) <= {7},
        ),
        ({"type": "object", "additionalProperties": False}, lambda value: value == {}),
        (
            {"type": "array", "prefixItems": [{"enum": ["a"]}, {"type": "null"}], "items": False},
            lambda value: value == ["a", None],
        ),
        ({"properties": {"a": {"enum": [1]}}, "required": ["a"]}, lambda value: value == {"a": 1}),
        ({"type": "number", "minimum": 0.5, "maximum": 1.25}, lambda v: 0.5 <= v <= 1.25),
        ({"type": "number", "exclusiveMinimum": -0.25, "maximum": 0.5}, lambda v: -0.25 < v <= 0.5),
        ({"type": "integer", "minimum": -1.5, "maximum": 2.5}, lambda v: v in (-1, 0, 1, 2)),
        ({"type": "integer", "multipleOf": 5}, lambda v: type(v) is int and v % 5 == 0),
        ({"type": "number", "multipleOf": 0.25}, lambda v: v * 4 == int(v * 4)),
        ({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 15}, lambda v: v in (7, 14)),
        ({"type": "integer", "format": "uint8"}, lambda v: 0 <= v <= 255),
        (
            {"type": "string", "pattern": "^[a-z]+-?[0-9]*$", "minLength": 3, "maxLength": 5},
            lambda v: re.fullmatch("[a-z]+-?[0-9]*", v) and 3 <= len(v) <= 5,
        ),
        (
            {"type": "string", "format": "starts_with", "pattern": "^pi-[a-c]$"},
            lambda v: v[:3] == "pi-",
        ),
        ({"type": "string", "pattern": "^a$|^bb$"}, lambda v: v in ("a", "bb")),
        ({"type": "string", "format": "ipv6"}, lambda v: ipaddress.IPv6Address(v)),
        ({"type": "string", "format": "ipv4network"}, lambda v: ipaddress.IPv4Network(v)),
        (
            {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
            lambda v: v[:4] == "http",
        ),
        (
            {
                "allOf": [{"$ref": "#/$defs/n"}, {"maximum": 3}],
                "$defs": {"n": {"type": "integer", "minimum": 2}},
            },
            lambda v: v in (2, 3),
        ),
        (
            {"$ref": "#/$defs/s", "maxLength": 1, "$defs": {"s": {"type": "string"}}},
            lambda v: len(v) <= 1,
        ),
        (
            {
                "allOf": [
                    {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]},
                    {
                        "type": "object",
                        "properties": {"a": {"enum": [2, 3]}, "b": {"const": 4}},
                        "required": ["b"],
                    },
                ]
            },
            lambda v: v == {"a": 2, "b": 4},
        ),
        (
            {
                "type": "object",
                "anyOf": [
                    {"properties": {"a": {"const": 1}}, "required": ["a"]},
                    {"properties": {"b": {"const": 2}}, "required": ["b"]},
                ],
            },
            lambda v: v in ({"a": 1}, {"b": 2}),
        ),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"k": {"const": k, "default": k}}}
                    for k in "ab"
                ]
            },
            lambda v: v in ({"k": "a"}, {"k": "b"}),
        ),
        (
            {
                "type": "object",
                "propertyNames": {"enum": ["x", "y"]},
                "additionalProperties": {"const": 1},
                "required": ["x"],
            },
            lambda v: v in ({"x": 1}, {"x": 1, "y": 1}),
        ),
        (
            {
                "type": "object",
                "propertyNames": {"pattern": "^[a-c]$"},
                "additionalProperties": {"const": 1},
            },
            lambda v: set(v) <= set("abc"),
        ),
        (
            {"type": "object", "patternProperties": {"^[a-c]$": {"const": 1}}, "minProperties": 1},
            lambda v: v and set(v) <= set("abc"),
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"not": {}}, "b": {"const": 1}},
                "required": ["b"],
            },
            lambda v: v == {"b": 1},
        ),
        (
            {"type": "object", "required": ["a"], "additionalProperties": {"const": 1}},
            lambda v: v == {"a": 1},
        ),
        (
            {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True},
            lambda v: v == sorted(set(v)),
        ),
        (
            {
                "type": "array",
                "items": [{"const": 1}],
                "additionalItems": {"const": 2},
                "maxItems": 3,
            },
            lambda v: v in ([1], [1, 2], [1, 2, 2]),
        ),
        ({"type": "array", "items": False}, lambda v: v == []),
        ({"type": "string", "nullable": True, "enum": [None]}, lambda v: v is None),
        (
            {
                "$defs": {
                    "n": {
                        "type": "object",
                        "properties": {
                            "v": {"const": 1},
                            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]},
                        },
                        "required": ["v", "next"],
                    }
                },
                "$ref": "#/$defs/n",
            },
            lambda v: v["v"] == 1 and (v["next"] is None or v["next"]["v"] == 1),
        ),
        (
            {
                "type": "object",
                "properties": {
                    "n": {"const": "x"},
                    "kids": {"type": "array", "items": {"$ref": "#"}},
                },
                "required": ["n", "kids"],
            },
            lambda v: all(k["n"] == "x" for k in v["kids"]),
        ),
        (
            {
                "$defs": {
                    "a5": {"const": 1},
                    **{f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 50} for n in range(5)},
                },
                "$ref": "#/$defs/a0",
            },
            lambda v: v == 1,
        ),
        ({"type": "string", "format": "date"}, lambda v: datetime.date.fromisoformat(v)),
        ({"type": "string", "format": "uuid"}, lambda value: uuid.UUID(value)),
        ({"type": "string", "format": "ipv4"}, lambda value: ipaddress.IPv4Address(value)),
        (
            {"type": "string", "format": "date-time"},
            lambda value: datetime.datetime.fromisoformat(value.replace("Z", "+00:00")[:19]),
        ),
    ],
)
def test_what_pydantic_and_zod_write_is_held_to(engine: Engine, described: Any, holds: Any) -> None:
    found = answers(engine, schema.grammar(described))
    assert [value for value in found if not holds(value)] == []


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (-3, 17), (95, 1203), (-1203, -95), (9, 10), (-1, 1000), (100, 199)]
)
def test_every_integer_between_two_bounds_and_no_other_is_let_through(low: int, high: int) -> None:
    pattern = re.compile(gbnf.integers(low, high).replace('"', "").replace(" ", ""))
    assert [n for n in range(-2000, 2000) if pattern.fullmatch(str(n))] == list(
        range(low, high + 1)
    )


@pytest.mark.parametrize("low_out", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2, 3), (-3, -1), (9, 11)])
def test_numbers_between_two_bounds_are_let_through(low: int, high: int, low_out: bool) -> None:
    piece = gbnf.Bounds(low, high, low_out=low_out, high_out=not low_out).piece()
    pattern = re.compile(piece.replace('"."', r"\.").replace('"', "").replace(" ", ""))
    for number in (low - 1, low - 0.5, low, low + 0.5, high - 0.25, high, high + 0.5, high + 1):
        inside = low < number < high or number == (high if low_out else low)
        assert bool(pattern.fullmatch(f"{number:g}")) == inside, number


def test_any_object_is_one(engine: Engine) -> None:
    sampling = Sampling(max_tokens=40, grammar=schema.grammar({"type": "object"}))
    text = "".join(step.text for step in engine.generate(list(b"?\n"), sampling))
    assert text.startswith("{")


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ([], "schema: must be an object"),
        (
            {"type": "date"},
            "schema.type: must be one of object, array, string, integer, number, boolean, null",
        ),
        ({"type": "string", "pattern": "a(?=b)"}, "schema.pattern: is not understood: `(?=`"),
        ({"type": "string", "minimum": 3}, "schema: `minimum` is not understood here"),
        (
            {"type": "number", "minimum": 1e-13},
            "schema.minimum: must be a number with at most 12 decimals",
        ),
        (
            {"type": "integer", "minimum": 3, "exclusiveMaximum": 3},
            "schema: no number lies between its bounds",
        ),
        (
            {"type": "integer", "multipleOf": 3},
            "schema: `multipleOf` is not understood with these bounds",
        ),
        ({"type": "integer", "multipleOf": 0}, "schema.multipleOf: must be a number above 0"),
        ({"type": "string", "format": "iri"}, "schema: `format` 'iri' is not understood here"),
        (
            {"type": "array", "uniqueItems": True},
            "schema: `uniqueItems` is understood of `enum`, without `maxItems`",
        ),
        ({"type": "string", "minLength": 1001}, "schema.minLength: must be at most 1000"),
        (
            {"type": "string", "minLength": 3, "maxLength": 2},
            "schema.minLength: is greater than `maxLength`",
        ),
        (
            {"type": "array", "minItems": True},
            "schema.minItems: must be a whole number from 0 on",
        ),
        (
            {"type": "array", "minItems": None},
            "schema.minItems: must be a whole number from 0 on",
        ),
        ({"enum": []}, "schema.enum: must be a list of values"),
        ({"enum": None}, "schema.enum: must be a list of values"),
        ({"type": "integer", "enum": ["a"]}, "schema: no value of `enum` is of its `type`"),
        ({"type": "string", "const": 1}, "schema: no value of `const` is of its `type`"),
        (
            {"enum": ["a"], "const": "b"},
            "schema: no value of `enum` and `const` is of its `type`",
        ),
        ({"enum": ["a"], "minLength": 3}, "schema: `minLength` is not understood here"),
        (
            {"allOf": [{"type": "object"}, {"type": "string"}]},
            "schema.allOf: no value has the types of all schemas that must hold",
        ),
        (
            {"allOf": [{"pattern": "a"}, {"pattern": "b"}]},
            "schema.allOf: two `pattern` that must hold together are not understood here",
        ),
        (
            {"allOf": [{"anyOf": [{}]}, {"anyOf": [{"const": 1}]}]},
            "schema.allOf: two `anyOf` that must hold together are not understood here",
        ),
        (
            {"oneOf": [{"const": number} for number in range(65)]},
            "schema.oneOf: has more than 64 choices to tell apart: use `anyOf`",
        ),
        (
            {"oneOf": [{"type": "integer"}, {"type": "number"}]},
            "schema.oneOf: one value may be both [0] and [1], and just one is to hold: use `anyOf`",
        ),
        (
            {"oneOf": [{"type": "object"}, {"type": "object", "properties": {"a": {}}}]},
            "schema.oneOf: one value may be both [0] and [1], and just one is to hold: use `anyOf`",
        ),
        (
            {"type": "array", "items": False, "minItems": 1},
            "schema: no item fits, and one is asked for",
        ),
        (False, "schema: no value fits `false`"),
        ({"type": "object", "required": [1]}, "schema.required: `1` is not among the properties"),
        (
            {"type": "array", "prefixItems": [{}], "minItems": 2},
            "schema.prefixItems: has 1 places, not as many as asked",
        ),
        (
            {"type": "object", "propertyNames": {"pattern": "(?=x)"}},
            "schema.propertyNames.pattern: is not understood: `(?=`",
        ),
        (
            {"type": "object", "required": True},
            "schema: `properties` must be an object and `required` a list",
        ),
        (
            {"type": "object", "properties": {"a": {}}, "required": [[]]},
            "schema.required: `[]` is not among the properties",
        ),
        ({"anyOf": {}}, "schema.anyOf: must be a list of schemas"),
        ({"$ref": "#/$defs/x"}, "schema.$ref: `#/$defs/x` is not in this schema"),
        ({"$ref": "other.json"}, "schema.$ref: `other.json` is not in this schema"),
        ({"$ref": "#anchor"}, "schema.$ref: `#anchor` is not in this schema"),
        (
            {"$ref": "#/$defs/a/9", "$defs": {"a": [{}]}},
            "schema.$ref: `#/$defs/a/9` is not in this schema",
        ),
        ({"$ref": 3}, "schema.$ref: `3` is not in this schema"),
        ({"$ref": "#"}, "schema.$ref: refers to itself without an end"),
        (
            {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            "schema.anyOf[0].$ref.anyOf[0].$ref: refers to itself, and to nothing else",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {}},
                "required": ["b"],
                "additionalProperties": False,
            },
            "schema.required: `b` is not among the properties",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {"b": {"format": "x"}}}},
            },
            "schema.a.b: `format` 'x' is not understood here",
        ),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": 1},
            "schema.additionalProperties: must be true, false or a schema",
        ),
        (
            {"type": "object", "properties": [1]},
            "schema: `properties` must be an object and `required` a list",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(described: Any, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        schema.grammar(described)
    assert caught.value.message.startswith(f"`response_format`: {message}")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "described",
    [
        {
            "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "minItems": 1}},
            "$ref": "#/$defs/a",
        },
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 50}}, "$ref": "#/$defs/a"},
        {
            "$defs": {
                f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{m}"} for m in range(9)]} for n in range(9)
            },
            "$ref": "#/$defs/a0",
        },
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "string", "maxLength": n} for n in range(900)},
        },
        {"enum": [f"{n:0100}" for n in range(900)]},
    ],
    ids=[
        "a list of itself that is never empty",
        "itself many times",
        "each other",
        "many rules",
        "a long list",
    ],
)
def test_what_grows_too_large_is_refused(described: Any) -> None:
    with pytest.raises(FieldError, match=r"is too large|is nested deeper|without an end"):
        schema.grammar(described)


def test_repeats_stay_within_what_the_engine_takes(engine: Engine) -> None:
    described = {"type": "array", "items": {"type": "string", "maxLength": 1000}, "maxItems": 1000}
    sampling = Sampling(max_tokens=3, grammar=schema.grammar(described))
    assert (
        len([step for step in engine.generate(list(b"?\n"), sampling) if step.id is not None]) == 3
    )
