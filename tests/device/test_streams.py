"""Streams that begin at once: first the headers, and comments during silence."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import openai
import pytest

from device.serve import streams
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "hot?"}], "max_tokens": 2, "stream": True}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    monkeypatch.setattr(streams, "COMMENT_S", 0.05)
    return FakeEngine()


@pytest.fixture
def streaming(port: int) -> Iterator[Callable[[], http.client.HTTPResponse]]:
    """Return what asks for a stream and returns it as soon as its headers are there."""
    with ExitStack() as clients:

        def ask() -> http.client.HTTPResponse:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            clients.enter_context(closing(client))
            client.request("POST", CHAT, json.dumps(ASKED))
            return clients.enter_context(closing(client.getresponse()))

        yield ask


def test_a_stream_speaks_while_its_prompt_is_read_and_while_it_waits(
    engine: FakeEngine, streaming: Callable[[], http.client.HTTPResponse]
) -> None:
    engine.go.clear()
    first, second = streaming(), streaming()
    for response in (first, second):
        assert response.status == 200
        seen = [response.readline() for _ in range(6)]
        assert seen[0].startswith(b"data: {") and seen.count(b": keep-alive\n") == 2
    engine.go.set()
    for response in (first, second):
        answer = response.read()
        assert answer.count(b"tick ") == 2 and answer.endswith(b"data: [DONE]\n\n")


def test_the_openai_client_does_not_see_the_comments(engine: FakeEngine, port: int) -> None:
    engine.go.clear()
    asked = {"model": "tiny", **ASKED}
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client,
        client.chat.completions.create(**asked) as stream,  # type: ignore[call-overload]
    ):
        chunks = iter(stream)
        next(chunks)
        assert engine.began.wait(30)
        engine.go.set()
        texts = [chunk.choices[0].delta.content for chunk in chunks]
    assert [text for text in texts if text] == ["tick ", "tick "]


def test_a_prompt_that_cannot_be_answered_is_refused_before_the_line(
    engine: FakeEngine, port: int, streaming: Callable[[], http.client.HTTPResponse]
) -> None:
    engine.go.clear()
    busy = streaming()
    long = {"role": "user", "content": "x" * 600}
    status, _, answer = call(port, CHAT, {**ASKED, "messages": [long]})
    assert (status, answer["error"]["code"]) == (400, "prompt_too_long")
    engine.go.set()
    assert busy.read().count(b"tick ") == 2


def test_who_leaves_a_silent_stream_is_noticed_before_the_next_comment(
    engine: FakeEngine, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "COMMENT_S", 3600.0)
    engine.go.clear()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        client.request("POST", CHAT, json.dumps(ASKED))
        assert engine.began.wait(30)
        client.getresponse().close()
    assert engine.ended.wait(30)
