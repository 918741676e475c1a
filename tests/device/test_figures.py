"""What a running service has counted, from its metrics."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from device.engine.base import Timing
from device.figures import figures
from device.serve.metrics import Metrics


def served(text: str, status: int = 200) -> Iterator[int]:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def counted() -> str:
    metrics = Metrics()
    for status in (200, 200, 404, 500, 503):
        metrics.replied("/v1/chat/completions", status)
    for waited in (0.05, 0.4, 7.0, 100.0):
        metrics.began(waited)
    timing = Timing(
        prompt_tokens=9,
        reused_tokens=0,
        prefill_s=0.1,
        answer_tokens=3,
        decode_steps=2,
        decode_s=0.2,
    )
    metrics.answered(timing)
    return metrics.text(waiting=0, temperature_c=None, labels={"name": 'a "b'})


def test_requests_failures_and_waits_are_read_as_they_were_counted(counted: str) -> None:
    for port in served(counted):
        seen = figures(port)
        assert seen and (seen["requests"], seen["failures"]) == (5, 1)
        assert seen["began"] > 1e9
        limits = seen["first_token_s"]
        assert (limits["0.1"], limits["0.5"], limits["10"], limits["+Inf"]) == (1, 2, 3, 4)


def test_questions_and_refusals_are_read_by_category_and_other_requests_are_not() -> None:
    metrics = Metrics()
    for path, status in (
        ("/v1/chat/completions", 200),
        ("/v1/chat/completions", 400),
        ("/api/chat", 200),
        ("/v1/models", 200),
    ):
        metrics.replied(path, status)
    metrics.refused("question", ("hate", "self-harm/intent"))
    metrics.refused("answer", ("hate",))
    metrics.refused("question", ("hate",))
    for port in served(metrics.text(waiting=0, temperature_c=None, labels={})):
        seen = figures(port)
        assert seen and seen["asked"] == 2
        assert seen["refused"] == {
            "question/hate": 2,
            "question/self-harm/intent": 1,
            "answer/hate": 1,
        }


@pytest.mark.parametrize(("text", "status"), [("no", 401), ("", 500)])
def test_a_service_that_does_not_say_gives_nothing(text: str, status: int) -> None:
    for port in served(text, status):
        assert figures(port) is None


def test_no_service_gives_nothing() -> None:
    assert figures(9) is None
