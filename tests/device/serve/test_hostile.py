"""Generated requests that are wrong somewhere: each is refused by name, and the service goes on."""

import http.client
import json
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from device.engine.base import Settings
from device.errors import DeviceError
from device.model import open_file
from device.serve import schema
from tests.fakes.service import call, service, wait_until_loaded
from tests.fakes.tiny_gguf import tiny_gguf

LED = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
FORM = {"type": "json_schema", "json_schema": {"name": "r", "schema": {"type": "object"}}}
ASKED = [{"role": "user", "content": "hi"}]
RIGHT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": ASKED,
        "max_tokens": 2,
        "tools": [LED],
        "response_format": FORM,
        "stop": ["x"],
        "logit_bias": {"1": 1},
        "n": 1,
        "logprobs": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {"prompt": "hi", "max_tokens": 2, "echo": True, "logprobs": 2},
    "/v1/embeddings": {"input": ["a", "b"], "encoding_format": "base64"},
    "/v1/responses": {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "x"},
        ],
        "max_output_tokens": 2,
        "text": {"format": {"type": "json_object"}},
        "metadata": {"a": "b"},
    },
    "/api/chat": {
        "model": "tiny",
        "messages": [{**ASKED[0], "images": []}, {"role": "tool", "tool_name": "f", "content": ""}],
        "options": {"num_predict": 2, "num_ctx": 8192.0, "stop": ["x"]},
        "format": {"type": "object"},
        "tools": [LED],
        "keep_alive": "5m",
    },
    "/api/generate": {"model": "tiny", "prompt": "hi", "options": {"num_predict": 2}, "images": []},
    "/api/embed": {"model": "tiny", "input": ["a"], "truncate": True},
}
WRONG: list[Any] = [
    *(None, True, 0, -1, 10**30, 0.5, 1e308, 8192.0, "", "x", "\x00", "\ud800", "a" * 5000),
    *([], {}, [[]], [None], [{}], {"": None}, {"type": []}, {"type": {}}, {"format": {}}),
    *({"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"enum": [{}]}, {"pattern": "(a+)+$"}),
    *({"nullable": True, "enum": None}, {"properties": {"a": False}, "required": ["a"]}),
    *({"multipleOf": 1e-12, "type": "number"}, {"minimum": 0.1, "maximum": 0.1}),
    *("data:image/png;base64,AAAA", ["aGk="], [1.5], {"type": "function"}),
]
KEYS = ("type", "properties", "items", "anyOf", "oneOf", "allOf", "$ref", "required", "enum")
MORE = ("format", "pattern", "minimum", "maximum", "multipleOf", "minItems", "uniqueItems", "const")
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    file = tiny_gguf(tmp_path_factory.mktemp("hostile") / "tiny.gguf", context=2048)
    with service(lambda: open_file(file, Settings(context=2048, threads=1))) as port:
        wait_until_loaded(port)
        yield port


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a value."""
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for name, each in inside:
        yield (*path, name)
        yield from places(each, (*path, name))


def spoiled(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a request with one or two values replaced by wrong ones."""
    made: dict[str, Any] = json.loads(json.dumps(body))
    for _ in range(chance.randint(1, 2)):
        *path, last = chance.choice(list(places(made)))
        at: Any = made
        for name in path:
            at = at[name]
        at[last] = json.loads(json.dumps(chance.choice(WRONG)))
    return made


@pytest.mark.parametrize("path", RIGHT)
def test_a_request_with_wrong_values_is_answered_or_refused_by_name(port: int, path: str) -> None:
    status, _, answer = call(port, path, RIGHT[path])
    assert status == 200, answer

    chance = random.Random(path)
    for _ in range(40):
        status, _, answer = call(port, path, spoiled(RIGHT[path], chance))
        assert status in (200, 400, 404), answer
        assert status == 200 or answer["error"]
        assert b"internal_error" not in (answer if isinstance(answer, bytes) else b"")


def test_bodies_that_are_cut_or_no_text_leave_the_service_as_it_was(port: int) -> None:
    chance = random.Random(5)
    for path in RIGHT:
        raw = json.dumps(RIGHT[path]).encode()
        for damaged in (raw[: len(raw) // 2], b"\xff\xfe" + raw, raw.decode().encode("utf-16")):
            assert call(port, path, damaged)[0] == 400
        for deep in (b"[" * 100_000, b'{"a":' * 50_000):
            assert call(port, path, deep)[0] == 400

        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw) + 5}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as half, suppress(OSError):
            half.sendall(head.encode() + raw[: chance.randint(0, len(raw))])
    assert call(port, "/v1/completions", RIGHT["/v1/completions"])[0] == 200


def test_streams_that_their_clients_cut_leave_room_for_the_next_question(port: int) -> None:
    body = json.dumps({"messages": ASKED, "max_tokens": 400, "stream": True}).encode()
    for _ in range(12):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("POST", "/v1/chat/completions", body)
        response = client.getresponse()
        assert response.status in (200, 429)
        response.read(40)
        client.close()
    for _ in range(100):
        status, _, _ = call(port, "/v1/completions", RIGHT["/v1/completions"])
        if status == 200:
            return
        assert status == 429
    raise AssertionError("the queue never emptied")


def described(chance: random.Random, level: int = 0) -> Any:
    """Return a schema that means something, or does not."""
    if level > 3 or chance.random() < 0.1:
        return chance.choice(WRONG)
    keys = chance.sample((*KEYS, *MORE), chance.randint(1, 3))
    made = {key: keyword(key, chance, level + 1) for key in keys}
    return {"type": chance.choice(TYPES), **made} if chance.random() < 0.5 else made


def keyword(key: str, chance: random.Random, level: int) -> Any:
    """Return a value of a keyword."""
    if key == "properties":
        return {name: described(chance, level) for name in "ab"}
    if key == "items":
        return described(chance, level)
    if key in ("anyOf", "oneOf", "allOf"):
        return [described(chance, level) for _ in range(2)]
    plain = {
        "type": TYPES,
        "$ref": ("#", "#/properties/a", "#/items", "#/anyOf/0"),
        "required": (["a"], ["c"]),
        "enum": (["a", 1, None], [True]),
    }
    return chance.choice(plain.get(key, WRONG))


def test_a_schema_of_any_shape_becomes_a_grammar_or_is_refused() -> None:
    taken = 0
    for seed in range(2000):
        try:
            taken += schema.grammar(described(random.Random(seed))).startswith("root ::=")
        except DeviceError as error:
            assert error.status == 400
    assert taken > 100
