"""Answers held to a schema are what it describes, whatever the model would say; what is not understood is refused by name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from device.engine import load
from device.engine.base import Engine, FieldError, Sampling, Settings
from device.serve import schema
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


def test_any_object_is_one(engine: Engine) -> None:
    sampling = Sampling(max_tokens=40, grammar=schema.any_object())
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
        ({"type": "string", "pattern": "a+"}, "schema: `pattern` is not understood here"),
        ({"type": "integer", "minimum": 3}, "schema: `minimum` is not understood here"),
        (
            {"type": "string", "maxLength": 1001},
            "schema.maxLength: must be a whole number between 0 and 1000",
        ),
        (
            {"type": "string", "minLength": 3, "maxLength": 2},
            "schema.minLength: is greater than `maxLength`",
        ),
        (
            {"type": "array", "minItems": True},
            "schema.minItems: must be a whole number between 0 and 1000",
        ),
        ({"enum": []}, "schema.enum: must be a list of texts, numbers, true, false or null"),
        ({"enum": [{}]}, "schema.enum: must be a list of texts, numbers, true, false or null"),
        ({"anyOf": {}}, "schema.anyOf: must be a list of schemas"),
        ({"$ref": "#/$defs/x"}, "schema.$ref: `#/$defs/x` is not in this schema"),
        ({"$ref": "other.json"}, "schema.$ref: `other.json` is not in this schema"),
        ({"type": "object", "required": ["a"]}, "schema.required: `a` is not among the properties"),
        (
            {"type": "object", "properties": {"a": {}}, "required": ["b"]},
            "schema.required: `b` is not among the properties",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "object", "properties": {"b": {"format": "x"}}}},
            },
            "schema.a.b: `format` is not understood here",
        ),
        (
            {"type": "object", "properties": {"a": {}}, "additionalProperties": {}},
            "schema.additionalProperties: must be true or false",
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
    assert caught.value.message == f"`response_format`: {message}"
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "described",
    [
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 50}}, "$ref": "#/$defs/a"},
        {
            "$defs": {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 50} for n in range(9)},
            "$ref": "#/$defs/a0",
        },
        {
            "type": "object",
            "properties": {f"p{n}": {"type": "string", "maxLength": n} for n in range(900)},
        },
        {"enum": [f"{n:0100}" for n in range(900)]},
    ],
    ids=[
        "itself",
        "a list of itself",
        "itself many times",
        "a tree of references",
        "many rules",
        "a long list",
    ],
)
def test_what_grows_too_large_is_refused(described: Any) -> None:
    with pytest.raises(FieldError, match=r"is too large|is nested deeper"):
        schema.grammar(described)


def test_repeats_stay_within_what_the_engine_takes(engine: Engine) -> None:
    described = {"type": "array", "items": {"type": "string", "maxLength": 1000}, "maxItems": 1000}
    sampling = Sampling(max_tokens=3, grammar=schema.grammar(described))
    assert (
        len([step for step in engine.generate(list(b"?\n"), sampling) if step.id is not None]) == 3
    )
