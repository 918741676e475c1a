"""An endpoint is measured from the client's side, and its report says so."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from device.engine.base import Token
from tests.fakes.engine import FakeEngine
from tests.fakes.openai import Handler, answer, begin, event, openai, piece, stream
from tests.fakes.service import service, wait_until_loaded
from toolchain import report as reports
from toolchain.artifacts import Report
from toolchain.bench import FORMS
from toolchain.bench import render as render_rows
from toolchain.cli import app
from toolchain.endpoint.client import Completion, Endpoint
from toolchain.endpoint.measure import Plan, measure
from toolchain.endpoint.stream import Usage
from toolchain.errors import BoardError
from toolchain.progress import SILENT
from toolchain.report.page import render

PLAN = Plan(pp=40, tg=16, repeat=3)


def counting(handler: Handler, body: dict[str, Any]) -> None:
    """Answer as a server that reads 4 characters a token and writes a token in 2 ms."""
    prompt = len(body["messages"][0]["content"]) // 4
    tokens = body["max_tokens"]
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
    stream(handler, ["tick "] * tokens, usage, pause_s=0.002, first_s=0.002)


def test_prompts_have_about_the_wanted_tokens_and_share_no_beginning() -> None:
    with openai(counting) as server:
        report = measure(Endpoint(server.url), PLAN, SILENT)
    prompts = [body["messages"][0]["content"] for body in server.bodies if body["max_tokens"] == 1]
    assert len({prompt[:4] for prompt in prompts}) == len(prompts)
    counted = report.measured["client_side"]["prompt_tokens"]
    assert len(counted) == 3 and all(abs(tokens - 40) <= 6 for tokens in counted)


def test_a_report_has_both_rows_and_says_how_it_was_measured() -> None:
    with openai(counting) as server:
        report = measure(Endpoint(server.url), PLAN, SILENT)
    assert [reports.test_name(row) for row in report.rows] == ["pp40", "tg16"]
    assert all(len(row["samples_ts"]) == 3 for row in report.rows)
    assert report.board == server.url
    assert reports.caveats(report) == [reports.CLIENT_SIDE]
    assert report.measured["client_side"]["counted_by"] == "server"


def test_a_rate_is_that_of_the_tokens_after_the_first_piece() -> None:
    done = Completion(
        text="abcd",
        thought="",
        finish_reason="stop",
        arrivals_s=(1.0, 1.5, 2.0),
        whole_s=2.1,
        connect_s=0.0,
        streamed=True,
        usage=Usage(prompt_tokens=5, completion_tokens=12),
    )
    assert (done.ttft_s, done.tokens, done.decode_tok_s) == (1.0, 12, pytest.approx(8.0))


def test_what_a_server_has_in_memory_is_not_counted_as_read() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        usage = {
            "prompt_tokens": 40,
            "completion_tokens": body["max_tokens"],
            "prompt_tokens_details": {"cached_tokens": 40},
        }
        stream(handler, ["tick "] * body["max_tokens"], usage, pause_s=0.002)

    with openai(reply) as server:
        report = measure(Endpoint(server.url), PLAN, SILENT)
    assert [reports.test_name(row) for row in report.rows] == ["tg16"]
    assert report.measured["client_side"]["cached_tokens"] == [40, 40, 40]


def test_tokens_that_are_counted_only_without_a_stream_are_asked_for_so() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        if body["stream"]:
            stream(handler, ["a"] * body["max_tokens"], pause_s=0.002)
            return
        words = len(body["messages"][0]["content"].split())
        choice = {"message": {"content": "a"}, "finish_reason": "length"}
        answer(handler, 200, {"choices": [choice], "usage": {"prompt_tokens": words}})

    with openai(reply) as server:
        report = measure(Endpoint(server.url), PLAN, SILENT)
    assert [reports.test_name(row) for row in report.rows] == ["pp40", "tg16"]
    assert report.measured["client_side"]["prompt_tokens"] == [40, 40, 40]
    assert all("stream_options" not in body for body in server.bodies if not body["stream"])


def test_without_a_count_of_the_server_pieces_are_counted() -> None:
    with openai(lambda handler, body: stream(handler, ["a"] * 16, pause_s=0.002)) as server:
        report = measure(Endpoint(server.url), PLAN, SILENT)
    assert [reports.test_name(row) for row in report.rows] == ["tg16"]
    seen = report.measured["client_side"]
    assert (seen["counted_by"], seen["answer_tokens"]) == ("pieces", [16, 16, 16])


def test_a_model_that_answers_briefly_is_asked_several_times() -> None:
    with openai(lambda handler, body: stream(handler, ["a"] * 5, pause_s=0.002)) as server:
        report = measure(Endpoint(server.url), PLAN, SILENT)
    seen = report.measured["client_side"]
    assert (seen["answers"], seen["answer_tokens"]) == ([4, 4, 4], [20, 20, 20])


def test_a_test_that_asks_for_too_few_tokens_is_an_error() -> None:
    with (
        openai(counting) as server,
        pytest.raises(BoardError, match="too short to measure") as error,
    ):
        measure(Endpoint(server.url), Plan(pp=40, tg=4, repeat=1), SILENT)
    assert error.value.hint == "raise --tg"


def _at_once(handler: Handler, body: dict[str, Any]) -> None:
    stream(handler, ["a"] * 16, first_s=0.5)


def _unstreamed(handler: Handler, body: dict[str, Any]) -> None:
    choice = {"message": {"content": "a b c"}, "finish_reason": "stop"}
    answer(handler, 200, {"choices": [choice], "usage": {"completion_tokens": 16}})


def _silent(handler: Handler, body: dict[str, Any]) -> None:
    begin(handler)
    event(handler, piece("", "stop"))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (_at_once, "the pieces of its answer arrived together"),
        (_unstreamed, "came in one piece"),
        (_silent, "came in one piece"),
    ],
)
def test_an_answer_that_tells_no_rate_is_an_error(reply: Any, said: str) -> None:
    with openai(reply) as server, pytest.raises(BoardError, match=said):
        measure(Endpoint(server.url), PLAN, SILENT)


class Unhurried(FakeEngine):
    """An engine whose tokens come one by one."""

    def _answer(self, *args: Any) -> Iterator[Token]:
        for token in super()._answer(*args):
            threading.Event().wait(0.003)
            yield token


def test_our_own_service_is_measured_as_any_other() -> None:
    engine = Unhurried(word="tick ", context=4096)
    with service(engine.model) as port:
        wait_until_loaded(port)
        report = measure(Endpoint(f"http://127.0.0.1:{port}"), PLAN, SILENT)
    seen = report.measured["client_side"]
    assert (seen["counted_by"], seen["answer_tokens"]) == ("server", [16, 16, 16])
    assert seen["server_decode_tok_s"] == 60.0, "15 steps in 0.25 s, by the engine's own clock"
    assert all(len(row["samples_ts"]) == 3 for row in report.rows)


# What is shown of it ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> Report:
    with openai(counting) as server:
        return measure(Endpoint(server.url), PLAN, SILENT)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_an_endpoint_are_printed_in_every_form(report: Report, form: str) -> None:
    assert "tiny" in render_rows(report, form)


def test_a_page_of_an_endpoint_does_not_say_that_a_board_was_measured(report: Report) -> None:
    page = render([report])
    assert "on the boards themselves" not in page
    assert reports.CLIENT_SIDE.replace("'", "&#x27;") in page


def test_a_kept_report_is_compared_with_another(report: Report, tmp_path: Path) -> None:
    reports.save(report, tmp_path / "a.json")
    kept = reports.read(tmp_path / "a.json")
    tests = reports.compare(kept, report)
    assert [test.test for test in tests] == ["pp40", "tg16"]
    assert tests[0].caveats == ([reports.CLIENT_SIDE], [reports.CLIENT_SIDE])


# On the command line ------------------------------------------------------------------------------


def _run(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, words)
    if isinstance(result.exception, Exception) and code:
        return str(result.exception)
    assert result.exit_code == code, result.output
    return result.stdout


def test_ask_and_bench_take_the_address_of_an_endpoint(tmp_path: Path) -> None:
    with openai(counting) as server:
        said = json.loads(_run("ask", server.url, "hello", "--max-tokens", "3", "--json"))
        assert (said["text"], said["tokens"], said["model"]) == ("tick tick tick ", 3, "tiny")
        assert _run("ask", server.url, "hello", "--max-tokens", "2") == "tick tick \n"
        words = ("--pp", "40", "--tg", "16", "--repeat", "2")
        shown = _run("bench", server.url, *words, "--save", str(tmp_path / "r.json"))
    assert "| tiny | - | - | - | - | tg16 |" in shown
    assert f"mind: {reports.CLIENT_SIDE}" in shown
    assert reports.read(tmp_path / "r.json").board == server.url


def test_chat_takes_the_address_of_an_endpoint() -> None:
    def reply(handler: Handler, body: dict[str, Any]) -> None:
        stream(handler, [f"heard {len(body['messages'])}"])

    with openai(reply) as server:
        result = CliRunner().invoke(app, ["chat", server.url], input="one\ntwo\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == "model: heard 1\nmodel: heard 3\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ask", "http://pi", "hi", "--sources"), "--sources: is for a board"),
        (("bench", "http://pi", "--sustained", "5"), "--sustained: is for a board"),
        (("ask", "local", "hi", "--model", "x"), "--model: is for an endpoint"),
        (("bench", "local", "--model", "x"), "--model: is for an endpoint"),
    ],
)
def test_options_of_the_other_kind_are_refused(words: tuple[str, ...], said: str) -> None:
    assert said in _run(*words, code=2)
