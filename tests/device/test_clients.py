"""The requests of real clients, byte for byte as recorded: each gets what it asked for."""

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fakes.service import call, tiny_service

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
LANGCHAIN = "langchain-openai 1.x"
RECORDED = [
    (
        LANGCHAIN,
        {
            "messages": [{"content": "hi", "role": "user"}],
            "model": "tiny",
            "max_completion_tokens": 8,
            "stream": False,
            "temperature": 0.0,
        },
    ),
    (
        LANGCHAIN,
        {
            "messages": [{"content": "s", "role": "system"}, {"content": "u", "role": "user"}],
            "model": "tiny",
            "stream": True,
            "temperature": 0.0,
        },
    ),
    (
        "litellm",
        {"messages": [{"role": "user", "content": "hi"}], "model": "tiny", "max_tokens": 8},
    ),
    (
        "litellm",
        {
            "messages": [{"role": "user", "content": "hi"}],
            "model": "tiny",
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    ),
    (
        "Open WebUI",
        {"stream": True, "model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
    ),
    (
        "Open WebUI, a title",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Title?"}],
            "stream": False,
            "max_completion_tokens": 50,
        },
    ),
    (
        "Open WebUI, parameters",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "stream": True,
            "temperature": 0.8,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["\n\n"],
            "max_tokens": 8,
            "frequency_penalty": 0,
        },
    ),
]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tiny_service(tmp_path_factory.mktemp("served")) as number:
        yield number


@pytest.fixture
def client(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize(
    ("name", "body"),
    RECORDED,
    ids=[f"{name} {number}" for number, (name, _) in enumerate(RECORDED)],
)
def test_a_recorded_request_is_answered(port: int, name: str, body: dict[str, Any]) -> None:
    status, _, answer = call(port, CHAT, body)
    assert status == 200
    if body.get("stream"):
        events = [
            json.loads(line[6:])
            for line in answer.decode().split("\n\n")
            if line and line != "data: [DONE]"
        ]
        text = "".join(
            choice["delta"].get("content") or "" for event in events for choice in event["choices"]
        )
    else:
        text = answer["choices"][0]["message"]["content"]
    assert text.startswith("warm!") or body.get("temperature") == 0.8


def test_embeddings_have_length_one_and_the_same_text_has_the_same(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny", input=["warm", "cold", "warm"])
    first, second, third = (item.embedding for item in answer.data)
    assert sum(value * value for value in first) == pytest.approx(1.0)
    assert first == third != second
    assert answer.usage.prompt_tokens == 12


def test_embeddings_are_sent_as_numbers_or_packed(port: int) -> None:
    plain = call(port, EMBEDDINGS, {"input": "warm"})[2]["data"][0]["embedding"]
    packed = call(port, EMBEDDINGS, {"input": "warm", "encoding_format": "base64"})[2]["data"][0][
        "embedding"
    ]
    assert struct.unpack(f"<{len(plain)}f", base64.b64decode(packed)) == pytest.approx(
        tuple(plain), abs=1e-6
    )


def test_embeddings_leave_no_trace_in_the_next_answer(port: int) -> None:
    question = {"messages": [{"role": "user", "content": "hi"}]}
    before = call(port, CHAT, question)[2]["choices"]
    call(port, EMBEDDINGS, {"input": [[1, 2, 3], "something else"]} | {"input": "something else"})
    assert call(port, CHAT, question)[2]["choices"] == before


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "invalid_value"),
        ({"input": ""}, "input", "empty_question"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["a"] * 2049}, "input", "invalid_value"),
        ({"input": ["a", 3]}, "input", "invalid_value"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": "a", "dimensions": 8}, "dimensions", "unknown_field"),
        ({"input": [[999999]]}, None, "bad_token"),
        ({"input": "a" * 600}, None, "prompt_too_long"),
    ],
)
def test_a_wrong_request_for_embeddings_is_refused_by_its_field(
    port: int, body: dict[str, Any], param: str | None, code: str
) -> None:
    status, _, answer = call(port, EMBEDDINGS, body)
    assert (status, answer["error"]["param"], answer["error"]["code"]) == (400, param, code)
