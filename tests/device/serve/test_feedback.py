"""Feedback over HTTP: what is kept, what is refused, and that nothing is kept unless asked for."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.feedback import FOLDER, Ring
from device.serve import feedback
from tests.fakes.engine import FakeEngine
from tests.fakes.knowing import HOT, UNKNOWN, knowing_bundle, serving
from tests.fakes.service import call, service, wait_until_loaded

TOKEN = "sixteen-characters"
KEPT = "/v1/feedback"


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / FOLDER, 1 << 20)


@pytest.fixture
def port(ring: Ring) -> Iterator[int]:
    with service(lambda: FakeEngine(word="warm ").model(), ring=ring) as number:
        wait_until_loaded(number)
        yield number


def ask(port: int, *texts: str, **fields: Any) -> str:
    """Ask, and return the answer's id."""
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    body = {"messages": messages, "max_tokens": 2, **fields}
    status, _, answer = call(port, "/v1/chat/completions", body)
    assert status == 200, answer
    if fields.get("stream"):
        return str(answer.decode().partition('"id": "')[2].partition('"')[0])
    return str(answer["id"])


def metrics(port: int) -> list[str]:
    lines = call(port, "/metrics")[2].decode().splitlines()
    return [line for line in lines if line.startswith("demitasse_feedback")]


@pytest.mark.parametrize("stream", [False, True])
def test_a_rating_is_kept_with_its_question_and_answer(port: int, ring: Ring, stream: bool) -> None:
    name = ask(port, "how hot?", stream=stream)
    status, _, reply = call(port, KEPT, {"id": name, "rating": 1})
    assert (status, reply) == (200, {"object": "feedback", "id": name, "kept": True})
    (row,) = ring.rows()
    release = row.pop("release")
    assert len(release) == 64
    assert row == {
        "n": 1,
        "id": name,
        "kind": "up",
        "question": "how hot?",
        "answer": "warm warm ",
        "rating": 1,
        "known": None,
    }
    assert metrics(port) == ['demitasse_feedback_total{kind="up"} 1']


def test_a_correction_is_kept_with_what_was_said_before(port: int, ring: Ring) -> None:
    name = ask(port, "how hot?", "warm", "and at night?")
    call(port, KEPT, {"id": name, "rating": -1, "answer": " cool \n"})
    call(port, KEPT, {"id": name, "answer": "cold", "rating": None})
    first, second = ring.rows()
    assert first["before"] == [
        {"role": "user", "content": "how hot?"},
        {"role": "assistant", "content": "warm"},
    ]
    assert (first["question"], first["kind"], first["correction"]) == (
        "and at night?",
        "down",
        "cool",
    )
    assert (second["kind"], second["rating"], second["correction"]) == ("correction", 0, "cold")


def test_instructions_of_a_client_are_not_kept(port: int, ring: Ring) -> None:
    messages = [{"role": "system", "content": "secret"}, {"role": "user", "content": "how hot?"}]
    body = {"messages": messages, "max_tokens": 1}
    name = call(port, "/v1/chat/completions", body)[2]["id"]
    call(port, KEPT, {"id": name, "rating": 1})
    assert "secret" not in repr(list(ring.rows()))


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"id": "chatcmpl-0", "rating": 1}, 404, "unknown_answer"),
        ({"rating": 1}, 400, "invalid_value"),
        ({"id": 7, "rating": 1}, 400, "invalid_value"),
        ({"id": "x", "rating": 2}, 400, "invalid_value"),
        ({"id": "x", "rating": 0}, 400, "invalid_value"),
        ({"id": "x", "rating": True}, 400, "invalid_value"),
        ({"id": "x", "rating": 1.0}, 400, "invalid_value"),
        ({"id": "x"}, 400, "invalid_value"),
        ({"id": "x", "answer": " "}, 400, "invalid_value"),
        ({"id": "x", "answer": ["y"]}, 400, "invalid_value"),
        ({"id": "x", "answer": "y" * 8001}, 400, "invalid_value"),
        ({"id": "x", "rating": 1, "question": "mine"}, 400, "unknown_field"),
        ({"id": "x" * 70_000, "rating": 1}, 413, "too_large"),
        (b"[]", 400, "invalid_json"),
        (b'{"id": "x", "rating": 1', 400, "invalid_json"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(
    port: int, ring: Ring, body: Any, status: int, code: str
) -> None:
    said, _, answer = call(port, KEPT, body)
    assert (said, answer["error"]["code"]) == (status, code)
    assert list(ring.rows()) == []


def test_where_the_bundle_does_not_ask_for_it_nothing_is_kept_and_the_page_is_not_told() -> None:
    with service(lambda: FakeEngine().model()) as port:
        wait_until_loaded(port)
        status, _, answer = call(port, KEPT, {"id": ask(port, "how hot?"), "rating": 1})
        assert (status, answer["error"]["code"]) == (404, "not_found")
        assert "feedback" not in call(port, "/health")[2]
        assert metrics(port) == []


def test_it_asks_for_the_token_like_every_endpoint(ring: Ring) -> None:
    with service(lambda: FakeEngine().model(), ring=ring, token=TOKEN) as port:
        status, _, answer = call(port, KEPT, {"id": "x", "rating": 1})
        assert (status, answer["error"]["code"]) == (401, "unauthorized")
        origin = {"origin": "http://elsewhere.example"}
        assert call(port, KEPT, {"id": "x", "rating": 1}, headers=origin)[0] == 403


def test_only_the_last_answers_are_remembered(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MAX_REMEMBERED", 2)
    names = [ask(port, f"question {number}?") for number in range(3)]
    statuses = [call(port, KEPT, {"id": name, "rating": 1})[0] for name in names]
    assert statuses == [404, 200, 200]


def test_a_flood_is_refused_and_counted(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MAX_A_MINUTE", 3)
    with service(lambda: FakeEngine().model(), ring=ring) as port:
        wait_until_loaded(port)
        name = ask(port, "how hot?")
        statuses = [call(port, KEPT, {"id": name, "rating": 1})[0] for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert metrics(port) == [
            'demitasse_feedback_total{kind="lost"} 2',
            'demitasse_feedback_total{kind="up"} 3',
        ]
    assert len(list(ring.rows())) == 3


def test_a_question_that_the_documents_cannot_answer_is_kept_by_itself(
    tmp_path: Path, ring: Ring
) -> None:
    bundle = knowing_bundle(tmp_path / "bundle", recites="Warmth: 80")
    with serving(bundle, ring=ring) as port:
        ask(port, HOT)
        ask(port, UNKNOWN)
        waited = threading.Event()
        for _ in range(200):
            if metrics(port):
                break
            waited.wait(0.02)
        assert metrics(port) == ['demitasse_feedback_total{kind="unknown"} 1']
    (row,) = ring.rows()
    assert (row["kind"], row["question"], row["known"]) == ("unknown", UNKNOWN, False)
