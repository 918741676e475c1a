"""What a service counts, as Prometheus reads it."""

import re
from collections.abc import Iterator

import pytest

from device.engine.base import Timing
from device.serve.metrics import Metrics
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call, service, wait_until_loaded

LINE = re.compile(
    r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? -?[\d.e+]+)'
)
"""A line of Prometheus' text format 0.0.4, as far as it is used here."""


def figures(text: str) -> dict[str, float]:
    """Return name and labels → value of each sample."""
    assert [line for line in text.splitlines() if not LINE.fullmatch(line)] == []
    samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}


@pytest.fixture
def port() -> Iterator[int]:
    with service(lambda: FakeEngine().model()) as number:
        wait_until_loaded(number)
        yield number


def test_answers_add_up() -> None:
    metrics = Metrics()
    metrics.answered(Timing(10, 4, 0.5, 7, 6, 0.25))
    metrics.answered(Timing(20, 0, 1.0, 3, 2, 0.5))
    said = figures(metrics.text(waiting=2, temperature_c=41.5, labels={"model": "a"}))
    assert said['demitasse_info{model="a"}'] == 1
    assert said["demitasse_prompt_tokens_total"] == 30
    assert said["demitasse_reused_tokens_total"] == 4
    assert said["demitasse_answer_tokens_total"] == 10
    assert said["demitasse_prefill_seconds_total"] == 1.5
    assert said["demitasse_decode_seconds_total"] == 0.75
    assert said["demitasse_requests_waiting"] == 2
    assert said["demitasse_temperature_celsius"] == 41.5


def test_labels_are_escaped() -> None:
    text = Metrics().text(waiting=0, temperature_c=None, labels={"model": 'a "b"\n\\'})
    assert 'demitasse_info{model="a \\"b\\"\\n\\\\"} 1' in text
    assert "temperature" not in text


def test_a_service_counts_its_requests_by_path_and_status(port: int) -> None:
    question = {"messages": [{"role": "user", "content": "how hot?"}], "max_tokens": 5}
    call(port, "/v1/chat/completions", question)
    call(port, "/v1/chat/completions", {**question, "stream": True})
    call(port, "/v1/chat/completions", {"nonsense": 1})
    call(port, "/wp-login.php")
    status, headers, text = call(port, "/metrics")
    said = figures(text.decode())
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert said['demitasse_requests_total{path="/v1/chat/completions",status="200"}'] == 2
    assert said['demitasse_requests_total{path="/v1/chat/completions",status="400"}'] == 1
    assert said['demitasse_requests_total{path="other",status="404"}'] == 1
    assert said["demitasse_answer_tokens_total"] == 10
    assert said["demitasse_resident_memory_bytes"] > 1 << 20


def test_figures_of_a_guarded_service_need_its_token() -> None:
    with service(lambda: FakeEngine().model(), token="sixteen-characters") as number:
        assert call(number, "/metrics")[0] == 401
        assert (
            call(number, "/metrics", headers={"authorization": "Bearer sixteen-characters"})[0]
            == 200
        )
