"""`ask` talks to a real service and says what went wrong in one sentence."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.ask import ask
from device.errors import DeviceError
from device.model import Model
from tests.fakes.engine import FakeEngine
from tests.fakes.ports import free_port
from tests.fakes.service import service, wait_until_loaded


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(word="树")


@pytest.fixture
def port(engine: FakeEngine) -> Iterator[str]:
    with service(engine.model) as number:
        wait_until_loaded(number)
        yield str(number)


def test_the_answer_is_printed_as_text(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(["--port", port, "--max-tokens", "3", "how hot?"]) == 0
    assert capsys.readouterr().out == "树树树\n"


@pytest.mark.slow
def test_the_answer_comes_as_json_with_its_figures(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(["--port", port, "--max-tokens", "3", "--json", "how hot?"])
    answer = json.loads(capsys.readouterr().out)
    assert answer.pop("ttft_s") > 0
    assert answer.pop("prompt_tokens") > 8
    assert answer == {"text": "树树树", "tokens": 3, "decode_tok_s": 8.0, "finish_reason": "length"}


def test_a_question_comes_from_stdin(
    port: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("树莓派?\n"))
    ask(["--port", port, "--max-tokens", "1", "-"])
    assert "user\n树莓派?<|im_end|>".encode() in engine.prompts[0]


def chat(
    port: str, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[Any]:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    assert ask(["--port", port, "--max-tokens", "2", "--chat"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_conversations_are_answered_a_line_each_with_events(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = chat(
        port, [json.dumps([{"role": "user", "content": "hot?"}])] * 2, monkeypatch, capsys
    )
    assert [event["delta"] for event in events if "delta" in event] == ["树"] * 4
    assert [event["text"] for event in events if "text" in event] == ["树树", "树树"]
    assert [event["context"] > 0 for event in events if "text" in event] == [True, True]


def test_a_bad_conversation_is_an_event_and_the_next_one_is_answered(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = json.dumps([{"role": "user", "content": "hot?"}])
    events = chat(
        port, ["{", "{}", json.dumps([{"role": "user", "content": ""}]), good], monkeypatch, capsys
    )
    assert [event["error"]["code"] for event in events[:3]] == [
        "invalid_json",
        "invalid_json",
        "empty_question",
    ]
    assert events[-1]["text"] == "树树"


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused_before_anything_is_sent(question: str) -> None:
    with pytest.raises(DeviceError) as caught:
        ask(["--port", "1", question])
    assert (caught.value.code, caught.value.message) == ("empty_question", "the question is empty")


def test_no_service_is_said_with_the_address() -> None:
    port = free_port()
    with pytest.raises(DeviceError) as caught:
        ask(["--port", str(port), "hot?"])
    assert (caught.value.code, caught.value.message) == (
        "no_service",
        f"no service answers on 127.0.0.1:{port}: Connection refused",
    )


def test_a_refusal_of_the_service_is_passed_on(port: str) -> None:
    with pytest.raises(DeviceError) as caught:
        ask(["--port", port, "--max-tokens", "0", "hot?"])
    assert (
        caught.value.message == "`max_tokens`: must be a whole number between 1 and 1048576, not 0"
    )


def test_an_error_in_the_middle_of_the_answer_is_passed_on(port: str, engine: FakeEngine) -> None:
    engine.failure = DeviceError("engine_failed", "the engine gave up")
    with pytest.raises(DeviceError) as caught:
        ask(["--port", port, "hot?"])
    assert (caught.value.code, caught.value.message) == ("engine_failed", "the engine gave up")


def test_what_is_not_this_service_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(
            target=_answer_with,
            args=(other, b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
        ).start()
        with pytest.raises(DeviceError) as caught:
            ask(["--port", str(other.getsockname()[1]), "hot?"])
    assert (caught.value.code, caught.value.message) == (
        "no_service",
        "what answers there is not this service",
    )


def _answer_with(server: socket.socket, raw: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(raw)
        connection.recv(65536)


def test_a_loading_model_is_waited_for(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = threading.Event()

    def slowly() -> Model:
        loaded.wait(30)
        return engine.model()

    with service(slowly) as port:
        threading.Timer(0.5, loaded.set).start()
        ask(["--port", str(port), "--max-tokens", "1", "hot?"])
    assert capsys.readouterr().out == "树\n"


def test_a_token_is_brought_from_its_file(
    engine: FakeEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("sixteen-characters\n")
    with service(engine.model, token="sixteen-characters") as port:
        wait_until_loaded(port)
        with pytest.raises(DeviceError, match="a bearer token is needed"):
            ask(["--port", str(port), "hot?"])
        ask(
            [
                "--port",
                str(port),
                "--max-tokens",
                "1",
                "--token-file",
                str(tmp_path / "token"),
                "hot?",
            ]
        )
    assert capsys.readouterr().out == "树\n"


def _answer_once(port: int) -> None:
    """Answer one request on a port with an error of its own."""
    body = b'{"error": {"code": "late", "message": "here I am"}}'
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(10)
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            head = b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)


def test_a_service_that_is_about_to_listen_is_waited_for() -> None:
    port = free_port()
    later = threading.Timer(0.5, _answer_once, [port])
    later.start()
    with pytest.raises(DeviceError, match="here I am"):
        ask(["--port", str(port), "--starting", "hot?"])
    later.join()


def test_a_service_that_never_listens_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("device.ask.LOADING_TIMEOUT_S", 0.3)
    with pytest.raises(DeviceError, match="no service answers"):
        ask(["--port", str(free_port()), "--starting", "hot?"])
