"""Connections that are silent, slow, half closed, idle or too many: none takes a place from
another.
"""

import json
import socket
import threading
from contextlib import ExitStack

import pytest

from device.serve import connection
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
QUESTION = json.dumps({"messages": [{"role": "user", "content": "hot?"}], "max_tokens": 2}).encode()


def request(path: str = CHAT, body: bytes = QUESTION, *, version: str = "1.1") -> bytes:
    head = f"POST {path} HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def connect(port: int, *parts: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    for part in parts:
        client.sendall(part)
    return client


def rest(client: socket.socket) -> bytes:
    """Return all that comes until the service hangs up; b"" where it resets the connection."""
    found = b""
    try:
        while chunk := client.recv(65536):
            found += chunk
    except ConnectionResetError:
        return b""
    finally:
        client.close()
    return found


def until(client: socket.socket, end: bytes) -> bytes:
    """Return what comes up to some bytes."""
    found = b""
    while not found.endswith(end):
        found += client.recv(65536)
    return found


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_half_closed_client_gets_its_whole_answer_and_the_connection_ends(
    engine: FakeEngine, port: int, version: str, stream: bool
) -> None:
    engine.go.clear()
    asked = json.dumps({**json.loads(QUESTION), "stream": stream}).encode()
    client = connect(port, request(body=asked, version=version))
    client.shutdown(socket.SHUT_WR)
    assert engine.began.wait(30)
    threading.Event().wait(0.5)  # by then the service has looked whether this client still reads
    engine.go.set()
    answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.count(b"tick ") == 2


def test_a_half_closed_client_that_then_leaves_is_noticed(engine: FakeEngine, port: int) -> None:
    engine.go.clear()
    client = connect(port, request())
    client.shutdown(socket.SHUT_WR)
    assert engine.began.wait(30)
    client.close()
    assert engine.ended.wait(30)


def test_embeddings_end_when_their_client_leaves(engine: FakeEngine, port: int) -> None:
    engine.go.clear()
    texts = json.dumps({"input": [f"text {number}" for number in range(64)]}).encode()
    client = connect(port, request(EMBEDDINGS, texts))
    assert engine.began.wait(30)
    client.close()
    assert engine.ended.wait(30), "inside the text that is read"
    engine.go.set()
    assert call(port, CHAT, QUESTION)[0] == 200
    assert len(engine.prompts) == 2, "none of the other 63 texts is read"


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: localhost\r\n", request()[:-1]]
)
def test_connections_without_a_whole_request_make_room_for_those_with_one(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 8)
    with ExitStack() as held:
        silent = [held.enter_context(connect(port, sent)) for _ in range(40)]
        assert [call(port, "/health")[0] for _ in range(20)] == [200] * 20
        assert rest(silent[0]) == b""
        assert call(port, CHAT, QUESTION)[0] == 200


def test_the_oldest_idle_connection_makes_room_and_one_that_is_answered_never_does(
    engine: FakeEngine, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 4)
    engine.go.clear()
    client = connect(port, request())
    assert engine.began.wait(30)
    with ExitStack() as held:
        for _ in range(20):
            held.enter_context(connect(port))
        assert call(port, "/health")[0] == 200
        engine.go.set()
        client.shutdown(socket.SHUT_WR)
        assert rest(client).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("phase", "sent"),
    [
        ("head", b""),
        ("head", b"GET /health HTTP/1.1\r\nHost: loc"),
        ("body", request("/nowhere")[:-1]),
        ("idle", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ],
)
def test_a_request_that_does_not_come_ends_its_connection(
    port: int, phase: str, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection._LIMITS_S, phase, 0.2)
    answer = rest(connect(port, sent))
    assert (phase == "head") == (answer == b"")
    assert call(port, CHAT, QUESTION)[0] == 200


def test_a_head_that_comes_byte_by_byte_gains_no_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection._LIMITS_S, "head", 0.3)
    with connect(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        assert until(client, b"}").startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError):
            for _ in range(600):
                client.sendall(b"X")
                threading.Event().wait(0.05)


def test_a_body_that_nobody_read_is_read_past_and_the_connection_goes_on(port: int) -> None:
    with connect(port, request("/nowhere")[:-1]) as client:
        assert until(client, b"}}").startswith(b"HTTP/1.1 404")
        client.sendall(QUESTION[-1:] + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert until(client, b"}").startswith(b"HTTP/1.1 200")


def test_requests_that_come_together_are_answered_one_after_the_other(port: int) -> None:
    client = connect(port, request() + request() + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    assert rest(client).count(b"HTTP/1.1 200") == 3


def test_an_answer_that_nobody_reads_ends(
    engine: FakeEngine, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_TIMEOUT_S", 0.2)
    engine.word = "tick " * 4000  # a few hundred of these fill all buffers on the way
    asked = {**json.loads(QUESTION), "stream": True, "max_tokens": 1 << 20}
    client = connect(port, request(body=json.dumps(asked).encode()))
    assert engine.ended.wait(30)
    assert b"[DONE]" not in rest(client), "it was ended, it did not end"


def test_what_is_not_http_is_refused_in_openais_shape(port: int) -> None:
    answer = rest(connect(port, b"\x16\x03\x01\x02\x00\x01\r\n\r\n"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_idle_connections_outlive_the_pools_of_clients() -> None:
    # httpx 5 s, aiohttp 15 s; the Go client and common proxies 60 s
    assert connection._LIMITS_S["idle"] > 60
