"""A teacher behind a real HTTP endpoint: what it is asked, what is kept, what is refused."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import ArtifactError, ConfigError
from toolchain.knowledge.passages import Passage
from toolchain.knowledge.teacher import KEY, Teacher
from toolchain.progress import SILENT

PASSAGES = (
    Passage(text="Use the official supply.", source="a.md", heading="Power"),
    Passage(text="运行 hostname -I。", source="b.md"),
)


class Endpoint:
    """An endpoint with OpenAI's API that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.reply: Any = (
            "1. Is it the cable?\n- lightning bolt\n\n(3) Is it the cable?\nWhy?\nmore"
        )
        self.status = 200
        self.location = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.asked.append(json.loads(body))
                outer.tokens.append(self.headers["authorization"])
                said = outer.reply
                if isinstance(said, str):
                    said = {"choices": [{"message": {"role": "assistant", "content": said}}]}
                raw = json.dumps(said).encode()
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("location", outer.location)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args: Any) -> None:
                """Print nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    opened = Endpoint()
    yield opened
    opened.server.shutdown()
    opened.server.server_close()


def test_questions_are_read_from_a_list_without_marks_and_repetitions(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    teacher = Teacher(endpoint.address, "some", 3, tmp_path / "written.jsonl")
    written = teacher.write(PASSAGES[:1], SILENT)
    assert written == [["Is it the cable?", "lightning bolt", "Why?"]]
    asked = endpoint.asked[0]
    assert asked["model"] == "some"
    assert "Write 3 different questions" in asked["messages"][0]["content"]
    assert "Power\n\nUse the official supply." in asked["messages"][0]["content"]


def test_what_was_written_is_not_asked_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    kept = tmp_path / "work" / "written.jsonl"
    first = Teacher(endpoint.address, "some", 3, kept).write(PASSAGES[:1], SILENT)
    kept.write_text(kept.read_text() + '{"passage": "cut')
    both = Teacher(endpoint.address, "some", 3, kept).write(PASSAGES, SILENT)
    assert both[0] == first[0]
    assert len(endpoint.asked) == 2


def test_a_token_of_the_environment_is_sent(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    Teacher(endpoint.address, "some", 3, tmp_path / "w").write(PASSAGES[:1], SILENT)
    assert endpoint.tokens == ["Bearer secret"]


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{"message": None}]}, [1]])
def test_another_shape_is_named(endpoint: Endpoint, tmp_path: Path, reply: Any) -> None:
    endpoint.reply = reply
    with pytest.raises(ArtifactError, match="answers in another shape"):
        Teacher(endpoint.address, "some", 3, tmp_path / "w").write(PASSAGES, SILENT)


def test_a_refusal_and_a_silent_endpoint_are_named(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.status = 401
    with pytest.raises(ArtifactError, match="answers 401") as caught:
        Teacher(endpoint.address, "some", 3, tmp_path / "w").write(PASSAGES, SILENT)
    assert KEY in caught.value.hint
    with pytest.raises(ArtifactError, match="does not answer"):
        Teacher("http://127.0.0.1:9/v1", "some", 3, tmp_path / "w").write(PASSAGES, SILENT)


def test_half_a_character_and_an_interrupted_run_lose_nothing_more(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    kept = tmp_path / "written.jsonl"
    endpoint.reply = "what \ud83d is it"
    assert Teacher(endpoint.address, "some", 3, kept).write(PASSAGES[:1], SILENT) == [
        ["what ? is it"]
    ]
    kept.write_bytes(kept.read_bytes() + '{"passage": "树'.encode()[:-1])
    for _ in range(2):
        Teacher(endpoint.address, "some", 3, kept).write(PASSAGES, SILENT)
    assert len(endpoint.asked) == 2


def test_an_empty_answer_is_named_and_not_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = ""
    for _ in range(2):
        with pytest.raises(ArtifactError, match="wrote no question"):
            Teacher(endpoint.address, "some", 3, tmp_path / "w").write(PASSAGES[:1], SILENT)
    assert len(endpoint.asked) == 2


def test_neither_token_nor_passage_follows_a_redirect(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Endpoint()
    monkeypatch.setenv(KEY, "secret")
    endpoint.status, endpoint.location = 302, other.address
    with pytest.raises(ArtifactError, match="answers 302"):
        Teacher(endpoint.address, "some", 3, tmp_path / "w").write(PASSAGES[:1], SILENT)
    assert not other.asked
    other.server.shutdown()
    other.server.server_close()


def test_a_port_that_speaks_something_else_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.recv(1 << 16)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        with pytest.raises(ArtifactError, match="does not answer"):
            Teacher(address, "some", 3, tmp_path / "w").write(PASSAGES[:1], SILENT)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8080",
        "file:///etc/passwd",
        "ftp://x/v1",
        "",
        "http://[::1/v1",
        "http://127.0.0.1:abc/v1",
        "http://127.0.0.1:99999/v1",
        "http://my host/v1",
    ],
)
def test_an_address_of_another_kind_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        Teacher(address, "some", 3, tmp_path / "w")
