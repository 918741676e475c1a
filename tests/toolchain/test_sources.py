"""`ask` and `chat` name what an answer stands on, by the board's own client and a real service."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.fakes.asking import AskDevice
from tests.fakes.knowing import FAN, HOT, PASSAGES, UNKNOWN, knowing_bundle, serving
from toolchain import show
from toolchain.board.device import parse
from toolchain.cli import answerers, app
from toolchain.errors import BoardError
from toolchain.talk import Asking, Conversation, ask

HEAT = "manual/heat.md › Heat › Limits"
RECITED = "Warmth: 80"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("wording") / "bundle"
    with serving(knowing_bundle(folder, answer="model", recites=RECITED)) as number:
        yield number


@pytest.fixture
def device(port: int) -> Any:
    return AskDevice(port)


@pytest.fixture
def said(port: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what a command line prints; its board is the service of this test."""

    @contextmanager
    def device_at(address: str) -> Iterator[AskDevice]:
        yield AskDevice(port)

    monkeypatch.setattr(answerers, "device_at", device_at)

    def run(*words: str, typed: str = "") -> str:
        result = CliRunner().invoke(app, words, input=typed)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_an_answer_has_the_titles_of_its_sources(device: Any) -> None:
    end = ask(device, HOT)
    assert (end["text"], end["known"]) == (RECITED, True)
    assert end["sources"][0] == {"title": HEAT, "url": "/v1/knowledge/1"}
    assert len(end["sources"]) == 3


def test_passages_come_along_if_they_are_asked_for(device: Any) -> None:
    end = ask(device, HOT, Asking(passages=True))
    assert [each["text"] for each in end["sources"]][:1] == [PASSAGES[0].text]


def test_instructions_of_ones_own_switch_the_documents_off(device: Any) -> None:
    end = ask(device, HOT, Asking(system="Be brief."))
    assert end["text"] == RECITED and "sources" not in end and "known" not in end


@pytest.mark.slow
def test_instructions_stay_when_the_oldest_questions_go(device: Any) -> None:
    forgotten: list[str] = []
    talk = Conversation(
        device, Asking(system="x" * 150, max_tokens=10), forgot=lambda: forgotten.append("said")
    )
    for _ in range(6):
        assert "known" not in talk.say("how hot is it there? " * 3, lambda _: None)
    assert forgotten == ["said"]


class TestOnTheCommandLine:
    def test_an_answer_that_is_read_by_a_program_is_the_answer_alone(self, said: Any) -> None:
        assert said("ask", "pi", HOT) == f"{RECITED}\n"

    def test_a_terminal_shows_one_line_of_titles(
        self, said: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("toolchain.console.is_terminal", lambda: True)
        answer, line = said("ask", "pi", HOT).splitlines()
        assert answer == RECITED
        assert line.startswith(f"from: {HEAT}; ") and line.endswith("guide.pdf › page 7")

    def test_sources_show_the_passages_under_the_answer(self, said: Any) -> None:
        shown = said("ask", "pi", HOT, "--sources")
        assert shown.startswith(f"{RECITED}\n\nfrom: {HEAT}\n  {PASSAGES[0].text}\n")
        assert f"\nfrom: guide.pdf › page 7\n  {PASSAGES[2].text}\n" in shown

    def test_json_has_the_sources_whole(self, said: Any) -> None:
        end = json.loads(said("ask", "pi", HOT, "--json"))
        assert end["sources"][0]["title"] == HEAT
        assert end["sources"][0]["text"] == PASSAGES[0].text

    def test_what_is_not_known_names_no_source_but_the_nearest(self, said: Any) -> None:
        shown = said("ask", "pi", UNKNOWN, "--sources")
        assert shown.startswith("My documents do not say that.")
        assert f"\nnearest: guide.pdf › page 7\n  {PASSAGES[2].text}\n" in shown
        assert shown.count("\nnear: ") == 2

    def test_a_caller_may_bring_instructions(self, said: Any) -> None:
        assert said("ask", "pi", UNKNOWN, "--system", "Guess.", "--sources") == f"{RECITED}\n"

    @pytest.mark.slow
    def test_a_chat_names_its_sources_unless_it_is_told_not_to(self, said: Any) -> None:
        typed = f"{HOT}\n{UNKNOWN}\n{FAN}\n"
        lines = said("chat", "pi", typed=typed).splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            "board",
            "from",
            "board",
            "board",
            "from",
        ]
        assert "from:" not in said("chat", "pi", "--no-sources", typed=typed)


class TestShown:
    def test_a_quote_is_not_shown_twice(self, capsys: pytest.CaptureFixture[str]) -> None:
        source = {"title": HEAT, "url": "/v1/knowledge/1", "text": "Hot."}
        show.sources({"text": "Hot.", "known": True, "sources": [source]}, whole=True)
        assert capsys.readouterr().out == f"\nfrom: {HEAT}\n"

    def test_what_was_found_as_well_is_shown_apart(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = {"title": HEAT, "url": "/v1/knowledge/1", "text": "Hot."}
        near = {"title": "Fan", "url": "/v1/knowledge/2", "text": "It spins."}
        end = {"text": "Hot.", "known": True, "sources": [source], "near": [near]}
        show.sources(end, whole=True)
        assert capsys.readouterr().out == f"\nfrom: {HEAT}\n\nsee also: Fan\n  It spins.\n"
        show.sources(end)
        assert capsys.readouterr().out == f"from: {HEAT}\n"

    def test_a_hostile_title_moves_no_cursor_and_is_one_line(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = {"title": "a\x1b[2J\n[red]b\u202e", "url": "/v1/knowledge/1"}
        show.sources({"text": "", "known": True, "sources": [source]})
        assert capsys.readouterr().out == "from: a\\x1b[2J [red]b\\u202e\n"

    def test_an_answer_without_sources_shows_nothing(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for whole in (True, False):
            show.sources({"text": "ok"}, whole=whole)
            show.sources({"text": "ok", "known": False, "sources": []}, whole=whole)
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sources": "all"}, "sources"),
        ({"sources": [{"title": "t", "url": "/v1/knowledge/1"}] * 9}, "sources"),
        ({"sources": [{"title": 7, "url": "/v1/knowledge/1"}]}, "sources.0.title"),
        ({"sources": [{"title": "t" * 2000, "url": "/v1/knowledge/1"}]}, "sources.0.title"),
        ({"sources": [{"title": "t", "url": "https://elsewhere.example"}]}, "sources.0.url"),
        ({"sources": [{"title": "t", "url": "/v1/knowledge/1", "text": "x" * 70_000}]}, "text"),
        ({"known": "yes"}, "known"),
    ],
)
def test_what_a_board_says_of_its_sources_is_checked(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BoardError, match=f"the answer of `ask`: `.*{named}`"):
        parse("pi", "ask", json.dumps({"text": "ok", **fields}).encode())
