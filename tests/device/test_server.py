"""The service over real sockets: OpenAI's endpoints and errors, one generation at a time, clients
that leave.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from device.engine.base import Settings
from device.errors import DeviceError
from device.model import Model, open_file
from device.serve.access import Access
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call, service, wait_until_loaded
from tests.fakes.tiny_gguf import tiny_bundle

RECITAL = "树🍵é莓"
HOT = {"messages": [{"role": "user", "content": "how hot?"}]}
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("served") / "bundle", recites=RECITAL)


@pytest.fixture(scope="module")
def port(bundle: Path) -> Iterator[int]:
    """A service with the real engine."""
    with service(
        lambda: open_file(bundle / "tiny.gguf", Settings(context=512, threads=1))
    ) as number:
        wait_until_loaded(number)
        yield number


@pytest.fixture
def fake(engine: FakeEngine) -> Iterator[int]:
    """A service with a fake engine."""
    with service(lambda: engine.model("be brief")) as number:
        wait_until_loaded(number)
        yield number
        engine.go.set()


def raw(port: int, *parts: bytes) -> bytes:
    """Send bytes as they are, say that no more will come, and return what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def events(raw: bytes) -> list[Any]:
    """Return the server-sent events of a whole stream, which must end with [DONE]."""
    lines = [line for line in raw.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_a_conversation_is_answered_whole(port: int) -> None:
    status, _, answer = call(port, CHAT, HOT)
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["choices"][0]["message"]["content"] == RECITAL
    assert answer["choices"][0]["finish_reason"] == "stop"
    usage = answer["usage"]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (12, usage["prompt_tokens"] + 12)


def test_a_stream_never_breaks_a_character_and_ends_with_done(port: int) -> None:
    status, headers, raw = call(
        port, CHAT, {**HOT, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    chunks = events(raw)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-2]] == list(RECITAL)
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 12
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_a_stream_without_include_usage_has_none(port: int) -> None:
    assert not any(
        "usage" in chunk for chunk in events(call(port, CHAT, {**HOT, "stream": True})[2])
    )


def test_a_plain_prompt_is_completed_whole_and_streamed(port: int) -> None:
    asked = {"prompt": "how hot?\n", "max_tokens": 7}
    _, _, answer = call(port, COMPLETION, asked)
    assert (
        answer["object"],
        answer["choices"][0]["text"],
        answer["choices"][0]["finish_reason"],
    ) == (
        "text_completion",
        "树🍵",
        "length",
    )
    chunks = events(call(port, COMPLETION, {**asked, "stream": True})[2])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "树🍵"


def test_the_openai_client_asks_whole_and_streamed(port: int) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        asked: Any = {"model": "tiny", "messages": HOT["messages"], "user": "me", "temperature": 0}
        assert client.chat.completions.create(**asked).choices[0].message.content == RECITAL
        with client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
        assert (
            "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            == RECITAL
        )
        assert chunks[-1].usage.completion_tokens == 12
        assert (
            client.completions.create(model="tiny", prompt="how hot?\n").choices[0].text == RECITAL
        )
        assert [model.id for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{**asked, "temperature": 9})
    assert caught.value.param == "temperature"


def test_the_openai_client_gets_log_probabilities_whole_and_streamed(port: int) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        asked: Any = {
            "model": "tiny",
            "messages": HOT["messages"],
            "logprobs": True,
            "top_logprobs": 2,
        }
        whole = client.chat.completions.create(**asked).choices[0].logprobs
        with client.chat.completions.create(**asked, stream=True) as stream:
            parts = [chunk.choices[0].logprobs for chunk in stream]
        plain = (
            client.completions.create(model="tiny", prompt="how hot?\n", logprobs=1)
            .choices[0]
            .logprobs
        )
    assert whole and whole.content and plain
    assert bytes(byte for token in whole.content for byte in token.bytes or ()) == RECITAL.encode()
    assert [token.top_logprobs[0].logprob for token in whole.content] == [
        token.logprob for token in whole.content
    ]
    assert [token for part in parts if part for token in part.content or ()] == whole.content
    assert plain.text_offset == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3]
    assert plain.token_logprobs == pytest.approx(
        [token.logprob for token in whole.content], abs=0.01
    )


def test_the_openai_client_gets_what_its_schema_describes(port: int) -> None:
    described = {
        "type": "object",
        "properties": {"hot": {"type": "boolean"}},
        "required": ["hot"],
        "additionalProperties": False,
    }
    asked: Any = {
        "type": "json_schema",
        "json_schema": {"name": "heat", "schema": described, "strict": True},
    }
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model="tiny", messages=HOT["messages"], response_format=asked
        )
        with pytest.raises(openai.BadRequestError) as caught:
            asked["json_schema"]["schema"] = {"type": "array", "uniqueItems": True}
            client.chat.completions.create(
                model="tiny", messages=HOT["messages"], response_format=asked
            )
    assert set(json.loads(str(answer.choices[0].message.content))) == {"hot"}
    assert (caught.value.param, caught.value.code) == ("response_format", "unsupported_schema")


def test_health_says_what_is_served(port: int) -> None:
    status, _, facts = call(port, "/v1/health")
    assert (status, facts["status"], facts["model"], facts["version"], facts["context"]) == (
        200,
        "ok",
        "tiny",
        "1.0",
        512,
    )
    assert (len(facts["release"]), facts["engine"], facts["model_type"]) == (
        64,
        "llama.cpp",
        "llama ?B all F32",
    )


def test_one_model_is_named_and_another_is_not_found(port: int) -> None:
    assert call(port, "/v1/models/tiny")[2]["id"] == "tiny"
    status, _, answer = call(port, "/v1/models/gpt-9")
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (
        404,
        "model_not_found",
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param", "message"),
    [
        (
            CHAT,
            {**HOT, "temperature": 9},
            400,
            "invalid_value",
            "temperature",
            "`temperature`: must be a number between 0 and 2, not 9",
        ),
        (
            CHAT,
            {"messages": [{"role": "user", "content": ""}]},
            400,
            "empty_question",
            "messages",
            "`messages`: the question is empty",
        ),
        (CHAT, b"{", 400, "invalid_json", None, "the body is not valid JSON"),
        (CHAT, b" " * ((1 << 20) + 1), 413, "too_large", None, "the body is larger than 1 MiB"),
        (
            COMPLETION,
            {"prompt": [259]},
            400,
            "bad_token",
            None,
            "token 259 is not one of the model's 259",
        ),
        (
            COMPLETION,
            {"prompt": "x" * 600},
            400,
            "prompt_too_long",
            None,
            (
                "the prompt has 600 tokens, the context holds 512 with the answer; "
                "ask for less at once, or package with a larger context"
            ),
        ),
        (COMPLETION, {"prompt": "x" * 600, "stream": True}, 400, "prompt_too_long", None, None),
        (
            "/v1/images/generations",
            {},
            404,
            "not_found",
            None,
            "`/v1/images/generations` is not an endpoint of this service",
        ),
        ("/health", {}, 405, "method_not_allowed", None, "`/health` does not take POST"),
    ],
)
def test_a_refusal_has_openais_shape(
    port: int, path: str, body: Any, status: int, code: str, param: str | None, message: str | None
) -> None:
    answered, _, answer = call(port, path, body)
    error = answer["error"]
    assert (answered, error["code"], error["param"], error["type"]) == (
        status,
        code,
        param,
        "invalid_request_error",
    )
    assert message is None or error["message"] == message


def test_a_request_by_another_name_is_refused(port: int) -> None:
    assert call(port, "/v1/models", headers={"Host": "evil.example"})[0] == 403


def test_health_is_answered_by_any_name_and_without_one(port: int) -> None:
    assert call(port, "/health", headers={"Host": "evil.example"})[0] == 200
    assert raw(port, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert raw(port, b"GET /v1/models HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403 ")


def test_the_bundles_system_prompt_comes_first_where_there_is_none(
    fake: int, engine: FakeEngine
) -> None:
    call(fake, CHAT, {**HOT, "max_tokens": 1})
    own = [{"role": "system", "content": "mine"}, *HOT["messages"]]
    call(fake, CHAT, {"messages": own, "max_tokens": 1})
    assert engine.prompts[0].startswith(
        b"<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhow hot?"
    )
    assert engine.prompts[1].startswith(b"<|im_start|>system\nmine<|im_end|>\n")


def test_an_engine_that_fails_is_an_error_of_the_server_and_the_next_question_is_answered(
    fake: int, engine: FakeEngine
) -> None:
    engine.failure = RuntimeError("a bug")
    status, _, answer = call(fake, CHAT, {**HOT, "max_tokens": 1})
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (
        500,
        "internal_error",
        "server_error",
    )
    engine.failure = DeviceError("engine_failed", "the engine gave up")
    chunks = events(call(fake, CHAT, {**HOT, "max_tokens": 1, "stream": True})[2])
    assert chunks[-1]["error"]["message"] == "the engine gave up"
    engine.failure = None
    assert call(fake, CHAT, {**HOT, "max_tokens": 1})[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_the_answer(fake: int, engine: FakeEngine, stream: bool) -> None:
    client = http.client.HTTPConnection("127.0.0.1", fake, timeout=30)
    client.request(
        "POST", CHAT, json.dumps({**HOT, "max_tokens": 1 << 20, "stream": stream}).encode()
    )
    assert engine.began.wait(30)
    client.sock.shutdown(socket.SHUT_RDWR)
    client.close()
    assert engine.ended.wait(30)


def test_a_full_line_is_refused_with_a_time_to_come_back() -> None:
    with service(FakeEngine().model, waiting=0) as port:
        wait_until_loaded(port)
        status, headers, answer = call(port, CHAT, HOT)
    assert (status, headers["retry-after"], answer["error"]["code"]) == (429, "5", "busy")


def test_loading_is_said_until_the_model_is_there() -> None:
    loaded, engine = threading.Event(), FakeEngine()

    def slowly() -> Model:
        loaded.wait(30)
        return engine.model()

    with service(slowly) as port:
        for path, body in (("/health", None), ("/v1/health", None), (CHAT, HOT)):
            status, headers, answer = call(port, path, body)
            assert (status, headers["retry-after"]) == (503, "2")
            assert answer == {
                "error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            }
        assert call(port, "/v1/models")[0] == 200
        loaded.set()
        wait_until_loaded(port)
        assert call(port, CHAT, {**HOT, "max_tokens": 1})[0] == 200


def test_a_token_is_asked_for_everywhere_but_at_health() -> None:
    with service(FakeEngine().model, token="sixteen-characters") as port:
        wait_until_loaded(port)
        status, headers, answer = call(port, "/v1/models")
        assert (status, headers["www-authenticate"], answer["error"]["code"]) == (
            401,
            "Bearer",
            "unauthorized",
        )
        assert (
            call(port, "/v1/models", headers={"Authorization": "Bearer sixteen-characters"})[0]
            == 200
        )


PAGE = "https://app.example"


def test_a_page_of_an_allowed_origin_may_ask_and_read_refusals_too() -> None:
    access = Access(frozenset({"localhost"}), "sixteen-characters", frozenset({PAGE}))
    with service(FakeEngine().model, access=access) as port:
        wait_until_loaded(port)
        asks = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
            "Access-Control-Request-Private-Network": "true",
        }
        status, headers, _ = call(port, CHAT, method="OPTIONS", headers=asks)
        assert (status, headers["access-control-allow-origin"]) == (204, PAGE)
        assert "x-stainless-os" in headers["access-control-allow-headers"]
        assert headers["access-control-allow-private-network"] == "true"
        assert "POST" in headers["access-control-allow-methods"]
        for token, expected in (("sixteen-characters", 200), ("another-token-here", 401)):
            sent = {"Origin": PAGE, "Authorization": f"Bearer {token}"}
            status, headers, _ = call(port, CHAT, HOT, headers=sent)
            assert (status, headers["access-control-allow-origin"]) == (expected, PAGE)
            assert headers["vary"] == "origin"


def test_a_page_of_another_origin_is_told_nothing() -> None:
    access = Access(frozenset({"localhost"}), "", frozenset({PAGE}))
    with service(FakeEngine().model, access=access) as port:
        wait_until_loaded(port)
        asks = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        for method, body in (("OPTIONS", None), ("POST", HOT), ("GET", None)):
            status, headers, _ = call(port, CHAT, body, method=method, headers=asks)
            assert status == 403
            assert not [name for name in headers if name.startswith("access-control")]


def serve(*argv: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "device", "serve", *argv]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )


def test_the_verb_serves_until_it_is_told_to_end(bundle: Path) -> None:
    with serve("--bundle", str(bundle), "--port", "0", "--threads", "1") as process:
        assert process.stdout
        said = json.loads(process.stdout.readline())
        wait_until_loaded(said["port"])
        assert call(said["port"], CHAT, HOT)[2]["choices"][0]["message"]["content"] == RECITAL
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert (process.returncode, log) == (-signal.SIGTERM, b"")


@pytest.mark.slow
def test_the_verb_ends_with_the_reason_where_the_model_does_not_load(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle / "tiny.gguf").write_bytes(b"GGUF")
    with serve("--bundle", str(bundle), "--port", "0") as process:
        out, _ = process.communicate(timeout=60)
    error = json.loads(out.splitlines()[-1])["error"]
    assert (process.returncode, error["code"]) == (1, "bad_model")
    assert error["message"].startswith("tiny.gguf: ")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--host", "0.0.0.0"], "token_required"),
        (["--port", "{taken}"], "port_taken"),
        (["--host-name", "kitchen-pi", "--host-name", "*"], "bad_host_name"),
        (["--cors-origin", "*"], "bad_origin"),
    ],
)
def test_the_verb_refuses_what_it_must_not_or_cannot_listen_on(
    bundle: Path, argv: list[str], code: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = [word.format(taken=other.getsockname()[1]) for word in argv]
        with serve("--bundle", str(bundle), *taken) as process:
            out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["error"]["code"]) == (1, code)
