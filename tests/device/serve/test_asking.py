"""The board's own client brings an answer's sources along, and believes no service too much."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.ask import MOST_TITLE, _near, _sources, ask
from tests.fakes.knowing import HOT, PASSAGES, UNKNOWN, knowing_bundle, serving

TOKEN = "sixteen-characters"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return knowing_bundle(tmp_path_factory.mktemp("quoting") / "bundle")


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[str]:
    with serving(folder) as number:
        yield str(number)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert ask(["--json", *words]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_an_answer_has_title_and_url_of_its_source(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "--port", port, HOT)
    assert found["text"] == PASSAGES[0].text and found["known"] is True
    assert found["sources"] == [
        {"title": "manual/heat.md › Heat › Limits", "url": "/v1/knowledge/1"}
    ]
    assert [each["url"] for each in found["near"]] == ["/v1/knowledge/2", "/v1/knowledge/3"]


def test_the_passage_comes_along_if_it_is_asked_for(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "--port", port, "--sources", UNKNOWN)
    assert found["known"] is False and found["sources"][0]["text"] == PASSAGES[2].text
    assert len(found["near"]) == 2 and all(each["text"] for each in found["near"])


def test_the_text_alone_is_printed_without_json(
    port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(["--port", port, "--sources", HOT])
    assert capsys.readouterr().out == f"{PASSAGES[0].text}\n"


def test_a_passage_is_asked_for_with_the_token(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with serving(folder, token=TOKEN) as number:
        words = ("--port", str(number), "--token-file", str(tmp_path / "token"))
        found = answer(capsys, *words, "--sources", HOT)
    assert found["sources"][0]["text"] == PASSAGES[0].text


def cited(**fields: Any) -> dict[str, Any]:
    return {
        "type": "url_citation",
        "url_citation": {"title": "t", "url": "/v1/knowledge/1"} | fields,
    }


@pytest.mark.parametrize(
    "annotations",
    [
        None,
        "all",
        7,
        {},
        [None],
        [[]],
        [{"url_citation": None}],
        [{"url_citation": "x"}],
        [cited(url=None)],
        [cited(title=None)],
        [cited(url="https://elsewhere.example/")],
        [cited(url="/v1/knowledge/1\r\nx: y")],
        [cited(url="/v1/knowledge/" + "9" * 5000)],
        [cited(url="/v1/knowledge/../models")],
    ],
)
def test_citations_that_are_none_of_ours_are_left_out(annotations: Any) -> None:
    assert _sources(annotations) == ()


@pytest.mark.parametrize("said", [None, 7, {}, {"near": 7}, {"near": [None, {"title": "t"}]}])
def test_what_is_no_passage_nearby_is_left_out(said: Any) -> None:
    assert _near(said) == ()


def test_sources_are_few_and_their_titles_short() -> None:
    sources = _sources([None, *[cited(title="t" * 100_000)] * 100])
    assert len(sources) == 8 and {len(each.title) for each in sources} == {MOST_TITLE}
