"""The check of a body: any reader can read what passes it, and every body is answered or
refused.
"""

import copy
import json
import random
from typing import Any

import pytest

from device.errors import DeviceError
from device.serve.api import read_chat, read_completion, read_embeddings
from device.serve.body import MAX_DEPTH, read_object
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call, service, wait_until_loaded

CHAT, COMPLETION, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            rb'{"a\ud83d": 1}',
            "the name of a field is not valid Unicode: it holds half of a surrogate pair",
        ),
        (
            rb'{"a": [0, {"b\udc00": 1}]}',
            "`a[1]`: the name of a field is not valid Unicode: it holds half of a surrogate pair",
        ),
        (
            rb'{"a": [0, "\ud83d"]}',
            "`a[1]`: the text is not valid Unicode: it holds half of a surrogate pair",
        ),
        (rb'{"a": NaN}', "`NaN` is not a number in JSON"),
        (rb'{"a": [-Infinity]}', "`-Infinity` is not a number in JSON"),
        (rb'{"a": 1e999}', "`1e999` is too large a number"),
        (rb'{"a": -9223372036854775809}', "`-9223372036854775809` is too large a number"),
        (b'{"a": ' + b"9" * 30 + b"}", f"`{'9' * 30}` is too large a number"),
        (rb'{"a": {"b": 1, "b": 1}}', "`b`: stands twice in one object"),
        (rb'{"\ud800": 1, "\ud800": 2}', "`?`: stands twice in one object"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "is nested deeper than 64 levels"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "is nested deeper than 64 levels"),
        (b"{} {}", "the body is not valid JSON"),
        (b'{"a": "\x80"}', "the body is not valid JSON"),
        ("{}".encode("utf-16"), "the body is not valid JSON"),
    ],
)
def test_a_value_that_readers_disagree_about_is_refused_by_its_place(
    body: bytes, message: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        read_object(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert caught.value.message.endswith(message) or "not valid JSON" in caught.value.message
    assert "\ud800" not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b'\xef\xbb\xbf{"a": 1}',
        rb'{"a": "\ud83c\udf75"}',
        rb'{"a": -9223372036854775808, "b": 1e308, "c": {"a": []}}'.replace(b"808", b"807"),
        b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}",
    ],
)
def test_what_passes_can_be_written_again(body: bytes) -> None:
    value = read_object(body)
    assert read_object(json.dumps(value, ensure_ascii=False).encode()) == value


SEEDS: list[dict[str, Any]] = [
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None, "refusal": None, "tool_calls": []},
            {"role": "user", "content": "and?", "name": "me"},
        ],
        "max_tokens": 2,
        "stop": ["x"],
        "logprobs": True,
        "top_logprobs": 2,
        "stream_options": {"include_usage": True},
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "n",
                "schema": {
                    "$defs": {"a/b": {"enum": ["x", 1, None]}},
                    "type": "object",
                    "properties": {
                        "a": {"$ref": "#/$defs/a~1b"},
                        "b": {"oneOf": [{"const": 1}, {"type": "string", "format": "date"}]},
                        "c": {"type": "array", "prefixItems": [{}], "minItems": 1},
                        "d": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
                    },
                    "required": ["a"],
                    "additionalProperties": False,
                },
            },
        },
    },
    {"prompt": ["hi"], "max_tokens": 2, "logprobs": 1, "temperature": 0.5, "seed": 1},
    {"input": ["a", [1, 2]], "encoding_format": "base64", "user": "me"},
]
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**63 - 1, -(2**63) + 1, 0.5, 1e308, "", " ", "\0", "x" * 300),
    *(
        "#",
        "#/",
        "#/$defs/a~1b/0",
        "%",
        "%ff",
        "~2",
        "\u202e",
        "\ufffe",
        "type",
        "string",
        "object",
    ),
    *([], {}, [[]], [{}], {"": 0}, {"type": {}}, [None], {"$ref": "#"}, {"enum": [[]]}, [1, "a"]),
    *({"allOf": [{}]}, {"oneOf": [{}, True]}, {"properties": []}, {"const": {}}, {"minimum": "a"}),
]
RAW = [b"NaN", b"1e999", b'"\\ud800"', b"-0", b"9" * 40, b"[" * 80 + b"]" * 80, b"\x00", b"\xc3"]


def places(value: Any, path: "tuple[Any, ...]" = ()) -> "list[tuple[Any, ...]]":
    """Return the path of everything in a value."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    return [path, *(place for name, each in inner for place in places(each, (*path, name)))]


def mutated(choose: random.Random) -> bytes:
    """Return a request with some of it replaced, renamed, repeated, cut or flipped."""
    body = json.loads(json.dumps(choose.choice(SEEDS)))
    for _ in range(choose.randrange(1, 4)):
        place = choose.choice(places(body))
        if not place:
            continue
        at = body
        for name in place[:-1]:
            at = at[name]
        action = choose.randrange(4)
        if action == 0 and isinstance(at, dict):
            at[choose.choice(["", "x", "type", "schema", "$ref", "nullable"])] = at.pop(place[-1])
        elif action == 1 and isinstance(at, list):
            at.append(copy.deepcopy(choose.choice(STRANGE)))
        else:
            at[place[-1]] = copy.deepcopy(choose.choice(STRANGE))
    raw = json.dumps(body, ensure_ascii=choose.random() < 0.5).encode("utf-8", "replace")
    kind, at_byte = choose.randrange(8), choose.randrange(len(raw))
    if kind == 0:
        return raw[:at_byte]
    if kind == 1:
        return raw[:at_byte] + bytes([choose.randrange(256)]) + raw[at_byte + 1 :]
    return raw.replace(b"null", choose.choice(RAW), 1) if kind == 2 else raw


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(4))
def test_no_mutated_request_makes_a_reader_fail(seed: int) -> None:
    choose, seen = random.Random(seed), {True: 0, False: 0}
    for _ in range(1500):
        body = mutated(choose)
        for read in (
            lambda raw: read_chat(raw, 9),
            lambda raw: read_completion(raw, 9),
            read_embeddings,
        ):
            try:
                read(body)
                seen[True] += 1
            except DeviceError as error:
                seen[False] += 1
                assert 400 <= error.status < 500
                json.dumps(error.as_json(), ensure_ascii=False).encode()
    assert min(seen.values()) > 50, "some requests hold and some do not"


@pytest.mark.slow
def test_mutated_requests_are_answered_or_refused_over_http() -> None:
    choose = random.Random(0)
    with service(FakeEngine().model, waiting=64) as port:
        wait_until_loaded(port)
        for number in range(300):
            body = mutated(choose)
            path = (CHAT, COMPLETION, EMBEDDINGS)[number % 3]
            status, _, answer = call(port, path, body)
            assert status == 200 or 400 <= status < 500, (status, body)
            assert status == 200 or answer["error"]["message"]
