"""An endpoint is asked: what real servers send is understood, what hostile ones send is bounded."""

import datetime
import ipaddress
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.fakes.engine import FakeEngine
from tests.fakes.openai import Handler, Reply, answer, begin, event, openai, piece, stream
from tests.fakes.ports import free_port
from tests.fakes.service import service, wait_until_loaded
from toolchain.endpoint.address import parse
from toolchain.endpoint.client import Endpoint
from toolchain.endpoint.exchange import exchange, fault_of
from toolchain.errors import (
    BoardError,
    ConfigError,
    ToolchainError,
    TooLongError,
    TrustError,
)
from toolchain.talk import Asking, Conversation, EndpointAnswers

HELLO = [{"role": "user", "content": "hello"}]


def ask(url: str, model: str = "", **fields: Any) -> str:
    return Endpoint(url, model).complete(HELLO, fields).text


def test_the_only_model_answers_and_its_pieces_are_said_as_they_come() -> None:
    said: list[str] = []
    with openai() as server:
        done = Endpoint(server.url).complete(HELLO, {}, said.append)
    assert (done.text, said, done.finish_reason) == ("Hello", ["Hel", "lo"], "stop")
    assert server.bodies[0]["model"] == "tiny"
    assert server.bodies[0]["messages"] == HELLO
    assert server.bodies[0]["stream"] is True


def test_of_several_models_one_is_named_by_the_user() -> None:
    with openai(models=["a-7b", "b-1b"]) as server:
        with pytest.raises(ConfigError, match="it has 2 models") as error:
            ask(server.url)
        assert error.value.hint == "--model NAME: `a-7b`, `b-1b`"
        assert ask(server.url, "b-1b") == "Hello"
    assert [body["model"] for body in server.bodies] == ["b-1b"]


def test_a_server_without_a_model_says_so() -> None:
    with openai(models=[]) as server, pytest.raises(ConfigError, match="it has no model"):
        ask(server.url)


def test_a_model_that_the_server_does_not_have_is_named_with_the_nearest() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        answer(handler, 404, {"error": {"message": f"model {body['model']} not found"}})

    with (
        openai(reply, ["smol-135m", "other"]) as server,
        pytest.raises(ConfigError, match="it has no model `smol-153m`") as error,
    ):
        ask(server.url, "smol-153m")
    assert error.value.hint == "did you mean `smol-135m`?"


def test_our_own_service_answers_and_keeps_to_the_length() -> None:
    engine = FakeEngine(word="tick ")
    with service(engine.model) as port:
        wait_until_loaded(port)
        done = Endpoint(f"http://127.0.0.1:{port}").complete(HELLO, {"max_tokens": 5})
    assert done.text == "tick " * 5
    assert (done.usage.completion_tokens, done.finish_reason) == (5, "length")
    assert done.server_decode_tok_s == 16.0, "4 steps in 0.25 s, by the engine's own clock"


def test_a_talk_with_an_endpoint_forgets_the_oldest_when_the_context_is_full() -> None:
    engine, forgotten = FakeEngine(word="tick ", context=300), []
    with service(engine.model) as port:
        wait_until_loaded(port)
        talk = Conversation(
            EndpointAnswers(Endpoint(f"http://127.0.0.1:{port}")),
            Asking(max_tokens=8),
            forgot=lambda: forgotten.append("said"),
        )
        for number in range(6):
            assert talk.say(f"question number {number} of many", lambda _: None)["tokens"] == 8
        with pytest.raises(TooLongError):
            Endpoint(f"http://127.0.0.1:{port}").complete(
                [{"role": "user", "content": "long " * 100}], {}
            )
    assert forgotten == ["said"]
    assert b"question number 5" in engine.prompts[-1]
    assert b"question number 0" not in engine.prompts[-1]


# What real servers send -------------------------------------------------------------------------


def _raw(*lines: str) -> Callable[[Handler, dict[str, Any]], None]:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        begin(handler)
        handler.wfile.write("".join(lines).encode())

    return reply


A, B = json.dumps(piece("A")), json.dumps(piece("B", "stop"))


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((f"data: {A}\n\n", f"data: {B}\n\n", "data: [DONE]\n\n"), "AB"),
        ((f"data:{A}\r\n\r\n", f"data:{B}\r\n\r\n", "data:[DONE]\r\n\r\n"), "AB"),
        ((f"\ufeffdata: {A}\n\n", ": ping\n\n", f"data: {B}\n\n"), "AB"),
        ((f"event: message\nid: 1\nretry: 5\ndata: {A}\n\n", f"data: {B}\n\n"), "AB"),
        ((f"data: {A}\n", f"data: {B}\n", "data: [DONE]\n"), "AB"),
        ((f"data: {A}\n\ndata: [DONE]\n\n",), "A"),
        (
            (
                'data: {"choices":\ndata: [{"delta": {"content": "A"},\n',
                'data: "finish_reason": "stop"}]}\n\n',
            ),
            "A",
        ),
        (
            (
                f"data: {A}\n\n",
                'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\n',
                "data: [DONE]\n\n",
            ),
            "A",
        ),
        (
            (
                'data: {"choices": [{"delta": {"content": null, "role": "assistant"}}]}\n\n',
                f"data: {B}\n\n",
            ),
            "B",
        ),
        (('data: {"choices": [{"index": 0}]}\n\ndata: {"x": 1}\n\n', f"data: {B}\n\n"), "B"),
    ],
)
def test_every_way_to_stream_is_understood(lines: tuple[str, ...], text: str) -> None:
    with openai(_raw(*lines)) as server:
        assert ask(server.url) == text


def test_a_server_that_does_not_stream_answers_too() -> None:
    whole = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
    with openai(lambda handler, body: answer(handler, 200, whole)) as server:
        done = Endpoint(server.url).complete(HELLO, {})
    assert (done.text, done.streamed) == ("Hello", False)


def test_what_a_model_thinks_is_not_its_answer() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        begin(handler)
        event(handler, piece("hm", name="reasoning_content"))
        if body.get("max_tokens") != 1:
            event(handler, piece("Yes", "stop"))
        event(handler, piece("", "length"))

    with openai(reply) as server:
        done = Endpoint(server.url).complete(HELLO, {})
        assert (done.text, done.thought, len(done.arrivals_s)) == ("Yes", "hm", 2)
        answers = EndpointAnswers(Endpoint(server.url))
        with pytest.raises(BoardError, match="came to no answer"):
            answers(HELLO, Asking(max_tokens=1), lambda _: None)


def llama_cpp_python(handler: Handler, body: dict[str, Any]) -> None:
    """Answer as llama-cpp-python 0.3.36's server: no usage in a stream, every field is taken."""
    if not body["stream"]:
        choices = [{"message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]
        usage = {"prompt_tokens": 31, "completion_tokens": 1, "total_tokens": 32}
        answer(handler, 200, {"choices": choices, "usage": usage})
        return
    begin(handler)
    roles = {"delta": {"role": "assistant"}, "logprobs": None, "finish_reason": None}
    for choice in (
        roles,
        {"delta": {"content": "ok"}, "logprobs": None, "finish_reason": None},
        {"delta": {}, "logprobs": None, "finish_reason": "stop"},
    ):
        event(handler, {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]})
    event(handler, "[DONE]")


def transformers_serve(handler: Handler, body: dict[str, Any]) -> None:
    """Answer as `transformers serve` 5.23: it refuses unknown fields and sends no `[DONE]`."""
    if "ignore_eos" in body:
        answer(handler, 422, {"detail": "Unexpected fields in the request: {'ignore_eos'}"})
        return
    begin(handler)
    event(handler, {"choices": [{"delta": {"role": "assistant"}, "index": 0}]})
    event(handler, {"choices": [{"delta": {"content": "ok"}, "index": 0}]})
    usage = {"completion_tokens": 1, "prompt_tokens": 31, "total_tokens": 32}
    end = [{"delta": {}, "index": 0, "finish_reason": "stop"}]
    event(handler, {"choices": end, "usage": usage})


@pytest.mark.parametrize(("reply", "counted"), [(llama_cpp_python, None), (transformers_serve, 31)])
def test_stock_servers_are_asked_and_what_they_do_not_count_is_not_nought(
    reply: Reply, counted: int | None
) -> None:
    with openai(reply) as server:
        endpoint = Endpoint(server.url)
        assert endpoint.complete(HELLO, {"ignore_eos": True}).text == "ok"
        asked = len(server.bodies)
        found = EndpointAnswers(endpoint)(HELLO, Asking(), lambda _: None)
        assert len(server.bodies) == asked + 1
    assert (found["text"], found["tokens"], found["prompt_tokens"]) == ("ok", 1, counted)


def test_a_server_that_cannot_list_its_models_is_asked_for_one_by_name() -> None:
    """`transformers serve` answers so where no model was fetched from a hub before."""
    with openai(transformers_serve) as server:
        server.fault = (500, "Internal Server Error")
        with pytest.raises(BoardError, match="it answers 500: Internal Server Error") as error:
            ask(server.url)
        assert error.value.hint == "--model NAME goes without the list of its models"
        assert ask(server.url, "tiny") == "ok"


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ({"ignore_eos"}, "Unrecognized request argument supplied: ignore_eos"),
        ({"stream_options"}, "stream_options: extra fields not permitted"),
        ({"ignore_eos", "stream_options", "temperature", "max_tokens"}, "Bad Request"),
    ],
)
def test_optional_fields_that_a_server_refuses_are_left_out(
    status: int, refused: set[str], message: str
) -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if refused & body.keys():
            answer(handler, status, {"error": {"message": message}})
        else:
            stream(handler, ["ok"])

    with openai(reply) as server:
        endpoint = Endpoint(server.url)
        fields = {"max_tokens": 4, "temperature": 0, "ignore_eos": True}
        assert endpoint.complete(HELLO, fields).text == "ok"
        asked = len(server.bodies)
        assert endpoint.complete(HELLO, fields).text == "ok"
        assert len(server.bodies) == asked + 1, "what was refused once is not sent again"
    assert ("temperature" in server.bodies[-1]) == ("temperature" not in refused)


def test_a_refusal_that_is_not_about_fields_changes_no_later_request() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if body["messages"] == HELLO:
            answer(handler, 400, {"error": {"message": "Bad Request"}})
        else:
            stream(handler, ["ok"])

    with openai(reply) as server:
        endpoint = Endpoint(server.url)
        with pytest.raises(ConfigError, match="it answers 400: Bad Request"):
            endpoint.complete(HELLO, {"temperature": 0})
        endpoint.complete([{"role": "user", "content": "other"}], {"temperature": 0})
    assert server.bodies[-1]["temperature"] == 0
    assert "stream_options" in server.bodies[-1]


def test_the_length_is_asked_for_by_its_newer_name_where_the_older_is_refused() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            answer(handler, 400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}})
        else:
            stream(handler, ["ok"])

    with openai(reply) as server:
        ask(server.url, max_tokens=7)
    assert server.bodies[-1]["max_completion_tokens"] == 7


def test_a_server_that_loads_its_model_is_asked_again() -> None:
    states = iter([503, 503, 200])

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if next(states) == 503:
            answer(handler, 503, {"error": {"message": "Loading model", "code": 503}})
        else:
            stream(handler, ["ok"])

    with openai(reply) as server:
        assert ask(server.url) == "ok"
    assert len(server.bodies) == 3


# Keys -------------------------------------------------------------------------------------------


def test_the_key_travels_in_its_header_and_shows_in_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEMITASSE_API_KEY", "sk-secret-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        answer(handler, 401, {"error": {"message": f"bad {handler.headers['authorization']}"}})

    with openai(reply) as server, pytest.raises(ConfigError) as error:
        ask(server.url)
    assert {headers.get("authorization") for _, headers, _ in server.requests} == {
        "Bearer sk-secret-1"
    }
    assert "it answers 401: bad Bearer …" in error.value.message
    assert "sk-" not in error.value.message + error.value.hint


def test_without_a_key_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMITASSE_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    with openai() as server:
        ask(server.url)
    assert all("authorization" not in headers for _, headers, _ in server.requests)


@pytest.mark.parametrize("key", ["two words", "a\nx: y", "schl\u00fcssel"])
def test_a_key_that_no_header_can_carry_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMITASSE_API_KEY", key)
    with openai() as server, pytest.raises(ConfigError, match="DEMITASSE_API_KEY: not a key"):
        ask(server.url)
    assert server.requests == []


def test_a_redirect_is_not_followed() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(307)
        handler.send_header("location", "http://elsewhere.example/v1")
        handler.send_header("content-length", "0")
        handler.end_headers()

    with openai(reply) as server, pytest.raises(BoardError, match="it sends elsewhere") as error:
        ask(server.url)
    assert "http://elsewhere.example/v1" in error.value.hint


# What foreign servers say is wrong ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"error": {"message": "no such thing.", "code": 400}}', ": no such thing"),
        ('{"error": "model not found"}', ": model not found"),
        ('{"detail": "Not Found"}', ": Not Found"),
        ('{"detail": [{"loc": ["body"], "msg": "field required"}]}', ": field required"),
        ('{"object": "error", "message": "too long"}', ": too long"),
        ('[{"error": {"message": "of a list"}}]', ": of a list"),
        ("plain words", ": plain words"),
        ("two\nlines", ": two lines"),
        ("<html><body>502</body></html>", ""),
        ("", ""),
        ("[]", ""),
        ('{"error": null}', ""),
        ('{"error": {"error": {"error": 5}}}', ""),
        ("[" * 100_000, ": " + "[" * 300),
        ("x" * 1000, ": " + "x" * 300),
    ],
)
def test_an_error_of_any_server_is_one_short_sentence(content: str, said: str) -> None:
    assert fault_of(content.encode()) == said


def test_an_error_in_the_middle_of_an_answer_is_said() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        begin(handler)
        event(handler, piece("A"))
        event(handler, {"error": {"message": "out of memory"}})

    with openai(reply) as server, pytest.raises(BoardError, match="the answer: out of memory"):
        ask(server.url)


# Hostile servers ----------------------------------------------------------------------------------


def _endless(unit: bytes, kind: str = "text/event-stream") -> Callable[..., None]:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        begin(handler, kind)
        while True:
            handler.wfile.write(unit)

    return reply


BIG = b"x" * 65536
DEEP = '{"a":' * 50 + "1" + "}" * 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (_endless(BIG), "an answer without end"),
        (_endless(b"data: " + BIG), "an answer without end"),
        (_endless(b"data: {\n" * 8192), "an answer without end"),
        (_endless(b": ping\n\n" * 8192), "an answer without end"),
        (_endless(BIG, "application/json"), "an answer without end"),
        (_raw(f"data: {A}\n\n"), "it ended in the middle of its answer"),
        (_raw(), "it ended in the middle of its answer"),
        (_raw("data: {broken}\n\n"), "not in the shape of OpenAI's API"),
        (_raw("data: [1, 2]\n\n"), "not in the shape of OpenAI's API"),
        (_raw(f"data: {DEEP}\n\n"), "not in the shape of OpenAI's API"),
        (_raw("data: " + "[" * 200_000 + "}\n\n"), "not in the shape of OpenAI's API"),
        (_raw('data: {"usage": {"prompt_tokens": NaN}}\n\n'), "not in the shape of OpenAI's API"),
        (_raw('data: {"usage": {"prompt_tokens": -1}}\n\n'), "`usage.prompt_tokens`: input should"),
        (_raw('data: {"usage": {"completion_tokens": 1e400}}\n\n'), "completion_tokens`: input"),
        (
            _raw('data: {"usage": {"completion_tokens": ' + "9" * 5000 + "}}\n\n"),
            "not in the shape",
        ),
        (
            _raw('data: {"choices": [{"delta": {"content": 7}}]}\n\n'),
            "delta.content`: input should",
        ),
        (_raw('data: {"choices": {"0": {}}}\n\n'), "`choices`: input should be a valid list"),
        (_raw(b'data: {"choices": \xff}\n\n'.decode("latin-1")), "not in the shape"),
        (
            lambda handler, body: answer(handler, 200, "<html>hi</html>", "text/html"),
            "not in the shape",
        ),
        (lambda handler, body: answer(handler, 200, [1]), "not in the shape"),
        (lambda handler, body: answer(handler, 500, "<html>"), "it answers 500"),
        (lambda handler, body: answer(handler, 502, "<p>" + "x" * 200_000), "it answers 502$"),
        (
            lambda handler, body: answer(handler, 429, {"error": "slow down"}),
            "it answers 429: slow down",
        ),
    ],
)
def test_a_wrong_answer_is_one_bounded_error(reply: Any, said: str) -> None:
    with openai(reply) as server, pytest.raises(ToolchainError, match=said) as error:
        ask(server.url)
    assert len(error.value.message) < 600
    assert error.value.exit_code in (2, 7)


def test_headers_without_end_are_an_error() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000)

    with openai(reply) as server, pytest.raises(BoardError, match="the connection was lost"):
        ask(server.url)


def test_a_length_that_does_not_come_is_an_error() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\n{}")
        handler.close_connection = True

    with openai(reply) as server, pytest.raises(BoardError):
        ask(server.url)


@pytest.mark.parametrize("drip", [b"x", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_server_that_sends_slowly_is_cut_off(drip: bytes) -> None:
    """Each byte would begin a time limit of the socket anew."""

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if drip == b"x":
            begin(handler)
        while True:
            handler.wfile.write(drip)
            handler.wfile.flush()
            threading.Event().wait(0.02)

    with openai(reply) as server:
        address = parse(server.url)
        with (
            pytest.raises(BoardError),
            exchange(address, "/chat/completions", {}, whole_s=0.3) as opened,
        ):
            list(opened.lines())
            raise BoardError("the stream was cut")  # a cut stream ends, and has no [DONE]


@pytest.mark.parametrize("begins", [b"", b'{"error": "no'])
def test_an_error_whose_words_never_end_is_told_by_its_status(
    begins: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that answers 429 and keeps the connection open was awaited for ten minutes."""

    def reply(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(429)
        handler.end_headers()
        handler.wfile.write(begins)
        handler.wfile.flush()
        threading.Event().wait(2)

    monkeypatch.setattr("toolchain.endpoint.exchange.FAULT_S", 0.1)
    with openai(reply) as server, pytest.raises(BoardError, match="it answers 429"):
        ask(server.url)


def test_what_answers_there_may_be_no_web_server() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as port:

        def shout() -> None:
            client, _ = port.accept()
            with client:
                client.recv(100)
                client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=shout)
        thread.start()
        with pytest.raises(BoardError, match="does not speak HTTP"):
            Endpoint(f"http://127.0.0.1:{port.getsockname()[1]}").models()
        thread.join()


def test_nothing_answers_on_a_closed_port() -> None:
    with pytest.raises(BoardError, match="nothing answers there"):
        Endpoint(f"http://127.0.0.1:{free_port()}").models()


def test_plain_http_is_not_taken_for_tls() -> None:
    with openai() as server, pytest.raises((BoardError, TrustError), match=r"no TLS|lost"):
        Endpoint(server.url.replace("http", "https")).models()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1 that signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "endpoint")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "endpoint.pem"
    written = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(written + signed.public_bytes(Encoding.PEM))
    return file


def test_a_certificate_that_nobody_trusts_is_refused(certificate: Path) -> None:
    with openai(certificate=certificate) as server:
        assert server.url.startswith("https://")
        with pytest.raises(TrustError, match="its certificate is not trusted") as error:
            ask(server.url)
    assert "SSL_CERT_FILE" in error.value.hint
    assert server.requests == []


def test_a_certificate_that_the_user_trusts_is_taken(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with openai(certificate=certificate) as server:
        assert ask(server.url) == "Hello"
