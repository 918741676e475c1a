"""Many clients, and hostile ones: every answer belongs to its question, nothing ends the service,
memory does not grow.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from device.engine.base import Sampling, Timing, Token, never
from tests.conftest import Rounds
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call, service, wait_until_loaded
from tests.fakes.tiny_gguf import tiny_bundle

CHAT, COMPLETION, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
CLIENTS, QUESTIONS = 64, 20
SMALL_SHELF = """
import sys
from device import __main__
from device.engine import sequence
sequence.prefix_cache_bytes = lambda total: 1 << 20
sys.exit(__main__.main(sys.argv[1:]))
"""
"""A service whose prefix cache holds a few conversations: it is soon full, and then it does not
grow."""
GROWTH = 1.05
"""Resident memory after many requests, over that after the first ones."""


class Parrot(FakeEngine):
    """An engine that says its prompt's canary again, a character a token."""

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        cancelled: Callable[[], bool] = never,
        prefix: int = 0,
    ) -> Iterator[Token]:
        found = re.search(rb"canary-\d+-\d+", bytes(tokens))
        return self._said(found.group().decode() if found else "none")

    def _said(self, text: str) -> Iterator[Token]:
        for number, character in enumerate(text):
            yield Token(number, character)
        yield Token(None, "", "stop", Timing(1, 0, 0.0, len(text), len(text), 0.001))


def ask_until_served(port: int, client: int) -> Counter[int]:
    """Ask questions one after the other, again while the service is busy.

    Return the statuses that were seen.
    """
    seen: Counter[int] = Counter()
    for number in range(QUESTIONS):
        canary = f"canary-{client}-{number}"
        stream = number % 2 == 1
        while True:
            body = {"messages": [{"role": "user", "content": canary}], "stream": stream}
            status, headers, answer = call(port, CHAT, body)
            seen[status] += 1
            if status == 200:
                break
            assert status in (429, 503) and headers["retry-after"].isdigit()
            threading.Event().wait(0.01)
        assert said(answer, stream=stream) == canary
    return seen


def said(answer: object, *, stream: bool) -> str:
    """Return the text of an answer."""
    if not stream:
        return str(answer["choices"][0]["message"]["content"])  # type: ignore[index]
    assert isinstance(answer, bytes)
    events = [
        json.loads(line[6:])
        for line in answer.decode().split("\n\n")
        if line and line != "data: [DONE]"
    ]
    return "".join(
        choice["delta"].get("content") or "" for event in events for choice in event["choices"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 3])
def test_of_64_clients_each_gets_its_own_answers(slots: int) -> None:
    with (
        service(lambda: Parrot(context=4096).model(slots=slots), waiting=8) as port,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        wait_until_loaded(port)
        seen = sum(
            clients.map(lambda client: ask_until_served(port, client), range(CLIENTS)),
            Counter[int](),
        )
    assert seen[200] == CLIENTS * QUESTIONS
    assert set(seen) <= {200, 429, 503}


def raw(port: int, *parts: bytes) -> bytes:
    """Send bytes as they are; return what comes back until the service hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        with suppress(OSError):  # a service that has hung up already leaves nothing to shut
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def head(
    path: str = CHAT, *, length: object = 2, host: str = "localhost", extra: str = ""
) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{extra}Connection: "
        "close\r\n\r\n"
    ).encode()


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode()


BODIES: list[bytes] = [
    *(chat(max_tokens=value) for value in (-2, 0, 1 << 40, 1.5, "8", True, [8], {})),
    *(chat(temperature=value) for value in (-1, 3, "hot", float("inf"), float("nan"), [])),
    *(chat(top_p=value) for value in (-0.1, 2, "all")),
    *(chat(top_k=value) for value in (-5, 1 << 33, 0.5)),
    *(chat(seed=value) for value in (1 << 64, 1.5, "one")),
    *(chat(n=value) for value in (0, 5, -1, "many")),
    *(chat(stop=value) for value in ([""], ["x"] * 99, "y" * 5000, [1], {"a": 1})),
    *(chat(stream=value) for value in ("yes", 1, [])),
    *(chat(stream_options=value) for value in ("yes", {"other": 1}, 3)),
    *(
        chat(response_format=value)
        for value in ({"type": "xml"}, {"type": "json_schema"}, "json", 3)
    ),
    *(chat(logprobs=value) for value in ("yes", 3)),
    *(chat(logprobs=True, top_logprobs=value) for value in (-1, 500, "all")),
    *(chat(tools=value) for value in ([{}], "all", 3)),
    *(chat(logit_bias=value) for value in ({"1": 101}, {"x": 1}, "none")),
    *(
        json.dumps({"messages": value}).encode()
        for value in ([], {}, "hi", None, [None], [[]], [{}], [{"role": "user"}])
    ),
    *(
        json.dumps({"messages": [{"role": role, "content": "x"}]}).encode()
        for role in ("root", "", None, 3, ["user"])
    ),
    *(
        json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
        for text in (3, None, [], [{}], {"a": 1}, "", "\ud800")
    ),
    json.dumps({"messages": [{"role": "user", "content": "x"}] * 600}).encode(),
    json.dumps({"messages": [{"role": "user", "content": "x" * 100_000}]}).encode(),
    json.dumps({"messages": [{"role": "user", "content": "x", "command": "rm"}]}).encode(),
    chat(path="/etc/passwd"),
    chat(__proto__={}),
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"{}" * 2,
    b'{"a":' * 5000,
    b"[" * 100_000,
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"max_tokens": 1e999}',
    b'{"max_tokens": ' + b"9" * 5000 + b"}",
]
REQUESTS: list[tuple[bytes, ...]] = [
    (b"GET / HTTP/9.9\r\n\r\n",),
    (b"\x16\x03\x01\x02\x00\x01",),
    (b"\0" * 1000,),
    (b"A" * 100_000,),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n"
        + b"".join(b"X-%d: y\r\n" % n for n in range(5000))
        + b"\r\n",
    ),
    (head(host="evil.example"), b"{}"),
    (head(host=""), b"{}"),
    (head(host="127.0.0.1.evil.example"), b"{}"),
    (head(extra="Origin: http://evil.example\r\n"), b"{}"),
    (head(extra="Origin: null\r\n"), b"{}"),
    (head(length=-1), b"{}"),
    (head(length="abc"), b"{}"),
    (head(length=10**12), b"{}"),
    (head(length=10 << 20), b"x" * (2 << 20)),
    (head(extra="Transfer-Encoding: chunked\r\n"), b"zzz\r\n"),
    (head("/../../etc/passwd"), b"{}"),
    (head("/v1/models/..%2f..%2fetc%2fpasswd"), b"{}"),
    (head("/v1/models/%00"), b"{}"),
    (b"DELETE /v1/models/tiny HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    (b"PUT / HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    (b"POST /api/create HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",),
]


def test_hostile_requests_are_refused_and_the_next_question_is_answered() -> None:
    assert len(BODIES) + len(REQUESTS) >= 100
    with service(FakeEngine().model) as port:
        wait_until_loaded(port)
        for path, bodies in (
            (CHAT, BODIES),
            (COMPLETION, BODIES[-14:]),
            (EMBEDDINGS, BODIES[-14:]),
        ):
            for body in bodies:
                status, _, answer = call(port, path, body)
                assert 400 <= status < 500, body[:80]
                assert (
                    answer["error"]["message"]
                    and answer["error"]["type"] == "invalid_request_error"
                ), body[:80]
        for request in REQUESTS:
            answer = b""
            try:
                answer = raw(port, *request)
            except (ConnectionError, TimeoutError):
                continue
            assert not answer or re.match(rb"HTTP/1\.[01] 4\d\d ", answer), (
                request[0][:80],
                answer[:80],
            )
        assert (
            call(port, CHAT, {"messages": [{"role": "user", "content": "still there?"}]})[0] == 200
        )


@pytest.mark.slow
def test_slow_and_silent_connections_keep_nobody_out() -> None:
    with service(FakeEngine().model) as port:
        wait_until_loaded(port)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        for number, connection in enumerate(silent):
            connection.sendall(head(length=100)[: 20 + number % 40])
        assert call(port, CHAT, {"messages": [{"role": "user", "content": "me?"}]})[0] == 200
        for connection in silent:
            connection.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A service in a process of its own, with a real model."""
    bundle = tiny_bundle(tmp_path / "bundle", recites="ok")
    command = [
        sys.executable,
        "-c",
        SMALL_SHELF,
        "serve",
        "--bundle",
        str(bundle),
        "--port",
        "0",
        "--threads",
        "1",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]
    ) as child:
        assert child.stdout
        port = int(json.loads(child.stdout.readline())["port"])
        wait_until_loaded(port)
        yield port, child
        child.terminate()


def ask(client: http.client.HTTPConnection, number: int) -> None:
    body = {
        "messages": [{"role": "user", "content": f"question {number}"}],
        "max_tokens": 4,
        "stream": number % 3 == 0,
    }
    client.request("POST", CHAT, json.dumps(body))
    response = client.getresponse()
    response.read()
    assert response.status == 200


def resident(child: "subprocess.Popen[bytes]") -> int:
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def written(child: "subprocess.Popen[bytes]") -> int:
    """Return the bytes that a process has had written to a disk, its output left out."""
    found = re.search(
        r"^write_bytes: (\d+)", Path(f"/proc/{child.pid}/io").read_text(), re.MULTILINE
    )
    assert found
    return int(found.group(1))


@pytest.mark.slow
@pytest.mark.soak(row=19, short=2000, whole=10_000)
def test_memory_does_not_grow_with_requests_and_nothing_is_written(
    rounds: Rounds, served: "tuple[int, subprocess.Popen[bytes]]"
) -> None:
    port, child = served
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        for number in range(200):
            ask(client, -number)
        first, before = resident(child), written(child)
        for number in rounds:
            ask(client, number)
            rounds.saw("answers")
    assert resident(child) <= GROWTH * first
    assert written(child) == before, "a question costs the SD card nothing"
