"""Ollama's API: what its clients send is answered in its form, or refused by the client's name."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from device.engine import load
from device.engine.base import FieldError, Settings
from device.engine.chat import ChatTemplate
from device.errors import DeviceError
from device.model import Model, open_file
from device.serve import ollama_requests
from device.serve.ollama_requests import Served
from tests.fakes.service import MANIFEST, call, service, tiny_service, wait_until_loaded
from tests.fakes.tiny_gguf import CHATML, tiny_gguf

PAGE = (Path(__file__).parents[3] / "docs" / "ollama.md").read_text(encoding="utf-8")
SERVED = Served("tiny", 32)
CHAT, GENERATE, EMBED = "/api/chat", "/api/generate", "/api/embed"
HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
HEAT = {"type": "function", "function": {"name": "read_heat"}}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tiny_service(tmp_path_factory.mktemp("served")) as number:
        yield number


def lines(port: int, path: str, body: Mapping[str, Any]) -> list[Any]:
    """Return the lines of a stream."""
    status, fields, answer = call(port, path, body)
    assert (status, fields["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.decode().splitlines()]


def test_a_stream_of_lines_says_what_the_whole_answer_says(port: int) -> None:
    parts = lines(port, CHAT, HI)
    whole = call(port, CHAT, {**HI, "stream": False})[2]
    assert "".join(part["message"]["content"] for part in parts) == "warm!"
    assert whole["message"] == {"role": "assistant", "content": "warm!"}
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]
    same = ("model", "done", "done_reason", "prompt_eval_count", "eval_count", "load_duration")
    assert [parts[-1][name] for name in same] == [whole[name] for name in same]
    assert whole["done_reason"] == "stop"


def test_durations_are_nanoseconds_and_the_counts_are_those_of_openais_endpoint(port: int) -> None:
    whole = call(port, CHAT, {**HI, "stream": False})[2]
    usage = call(port, "/v1/chat/completions", {"messages": HI["messages"]})[2]["usage"]
    assert whole["prompt_eval_count"] == usage["prompt_tokens"]
    assert whole["eval_count"] == usage["completion_tokens"]
    assert whole["total_duration"] >= whole["eval_duration"] > 1000
    assert all(isinstance(whole[f"{name}_duration"], int) for name in ("total", "prompt_eval"))


def test_a_prompt_with_instructions_is_a_conversation(port: int) -> None:
    body = {"model": "tiny:latest", "prompt": "hi", "system": "Be warm.", "stream": False}
    answer = call(port, GENERATE, body)[2]
    messages = [{"role": "system", "content": "Be warm."}, *HI["messages"]]
    talk = call(port, CHAT, {**HI, "messages": messages, "stream": False})[2]
    assert (answer["response"], talk["message"]["content"]) == ("warm!", "warm!")
    assert answer["prompt_eval_count"] == talk["prompt_eval_count"]
    assert "".join(part["response"] for part in lines(port, GENERATE, {**body, "stream": True}))


@pytest.mark.parametrize(("path", "body"), [(GENERATE, {}), (GENERATE, {"prompt": ""}), (CHAT, {})])
def test_a_request_without_a_question_says_that_the_model_is_loaded(
    port: int, path: str, body: dict[str, Any]
) -> None:
    status, _, answer = call(port, path, {"model": "tiny", "keep_alive": -1, **body})
    assert (status, answer["done"], answer["done_reason"]) == (200, True, "load")


def test_a_length_that_was_asked_for_ends_the_answer(port: int) -> None:
    body = {**HI, "stream": False, "options": {"num_predict": 2}}
    answer = call(port, CHAT, body)[2]
    assert (answer["message"]["content"], answer["done_reason"]) == ("wa", "length")


def test_log_probabilities_come_with_each_token(port: int) -> None:
    asked = {**HI, "logprobs": True, "top_logprobs": 2}
    whole = call(port, CHAT, {**asked, "stream": False})[2]["logprobs"]
    assert [each["token"] for each in whole] == list("warm!")
    assert all(len(each["top_logprobs"]) == 2 for each in whole)
    parts = lines(port, CHAT, asked)
    assert [each for part in parts for each in part.get("logprobs", [])] == whole


def test_a_format_holds_the_answer_to_it(port: int) -> None:
    schema = {"type": "object", "properties": {"hot": {"type": "boolean"}}, "required": ["hot"]}
    text = call(port, CHAT, {**HI, "stream": False, "format": schema})[2]["message"]["content"]
    assert set(json.loads(text)) == {"hot"}
    status, _, answer = call(port, CHAT, {**HI, "format": {"type": "object", "not": {}}})
    assert status == 400 and answer["error"].startswith("`format`: ")


def test_vectors_are_those_of_openais_endpoint(port: int) -> None:
    texts = ["warm", "cold"]
    answer = call(port, EMBED, {"model": "tiny", "input": texts, "truncate": True})[2]
    known = call(port, "/v1/embeddings", {"input": texts})[2]
    assert answer["embeddings"] == [each["embedding"] for each in known["data"]]
    assert answer["prompt_eval_count"] == known["usage"]["prompt_tokens"]
    older = call(port, "/api/embeddings", {"model": "tiny", "prompt": "warm"})[2]
    assert older == {"embedding": answer["embeddings"][0]}


def test_the_model_is_listed_shown_and_running(port: int) -> None:
    (listed,) = call(port, "/api/tags")[2]["models"]
    (running,) = call(port, "/api/ps")[2]["models"]
    shown = call(port, "/api/show", {"name": "tiny"})[2]
    assert listed["model"] == running["name"] == "tiny:latest"
    assert (listed["size"], listed["digest"]) == (1, MANIFEST.files[0].sha256)
    assert listed["details"]["format"] == "gguf"
    assert running["context_length"] == shown["model_info"]["llama.context_length"] == 512
    assert shown["capabilities"] == ["completion", "tools", "embedding"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", call(port, "/api/version")[2]["version"])


def test_a_probe_of_the_root_is_answered_and_a_browser_still_gets_the_page(port: int) -> None:
    assert call(port, "/", method="HEAD")[0] == 200
    assert "text/html" in call(port, "/")[1]["content-type"]


REFUSED: list[tuple[str, Any, int, str]] = [
    ("/api/pull", {"model": "x"}, 405, "models are not changed over this API; push a bundle"),
    ("/api/create", {"model": "x"}, 405, "models are not changed"),
    ("/api/nothing", {}, 404, "`/api/nothing` is not an endpoint of this service"),
    ("/api/tags", {}, 405, "`/api/tags` does not take POST"),
    (CHAT, {**HI, "model": "other"}, 404, "there is no model `other` here; this is `tiny`"),
    (CHAT, {"messages": HI["messages"]}, 400, "`model`: must be the name of a model"),
    (CHAT, b"{", 400, "the body is not valid JSON"),
    (CHAT, {**HI, "max_tokens": 5}, 400, "`max_tokens`: is not a field of this request"),
    (CHAT, {**HI, "options": {"top_p": 7}}, 400, "`options.top_p`: must be a number between 0"),
    (CHAT, {**HI, "options": {"heat": 7}}, 400, "`options.heat`: is not an option"),
    (GENERATE, {"model": "tiny", "prompt": " "}, 400, "`prompt`: the question is empty"),
    (EMBED, {"model": "tiny", "input": [""]}, 400, "`input`: the question is empty"),
    (EMBED, {"model": "tiny", "input": "a" * 600}, 400, "the prompt has 600 tokens"),
    (CHAT, {**HI, "messages": [{"role": "user", "content": "a" * 600}]}, 400, "the prompt has"),
    (CHAT, b" " * (1 << 20 | 1), 413, "the body is larger than 1 MiB"),
    (
        CHAT,
        {**HI, "messages": [{"role": "user", "content": "a", "images": ["aGk="]}]},
        400,
        "`messages[0].images`: the picture is not a whole JPEG or PNG file",
    ),
    (
        CHAT,
        {**HI, "messages": [{"role": "user", "content": "a", "images": "aGk="}]},
        400,
        "`messages[0].images`: must be a list of pictures in base64",
    ),
    (
        GENERATE,
        {"model": "tiny", "prompt": "a", "images": ["a?"]},
        400,
        "`images`: the picture's base64 is broken",
    ),
    *(
        (
            CHAT,
            {**HI, "messages": [{"role": "user", "content": "a", "images": nothing}]},
            400,
            "`messages[0].images`: must be a list of pictures in base64",
        )
        for nothing in (0, False, "", {})
    ),
    *(
        (
            CHAT,
            {
                **HI,
                "messages": [{"role": role, "content": "a", "images": ["aGk="]}, *HI["messages"]],
            },
            400,
            "`messages[0].images`: a picture is read in a question alone, whose `role` is `user`",
        )
        for role in ("system", "assistant", "tool")
    ),
]


@pytest.mark.parametrize(("path", "body", "status", "error"), REFUSED)
def test_a_refusal_is_one_sentence_in_ollamas_form(
    port: int, path: str, body: Any, status: int, error: str
) -> None:
    got, _, answer = call(port, path, body)
    assert (got, list(answer)) == (status, ["error"])
    assert answer["error"].startswith(error)


def test_models_are_deleted_by_nobody(port: int) -> None:
    assert call(port, "/api/delete", {"model": "tiny"}, method="DELETE")[0] == 405
    assert call(port, "/api/tags")[2]["models"]


def test_the_token_guards_every_path_and_the_counters_name_them(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", recites="warm!")
    key = {"authorization": "Bearer a-token-of-a-test"}
    with service(lambda: open_file(file, Settings(threads=1)), token="a-token-of-a-test") as port:
        wait_until_loaded(port)
        for path in (CHAT, "/api/tags", "/api/pull", "/api/version"):
            status, fields, answer = call(port, path, HI if path == CHAT else None)
            assert (status, fields["www-authenticate"]) == (401, "Bearer")
            assert answer["error"].startswith("a bearer token is needed")
        assert call(port, CHAT, HI, headers=key)[0] == 200
        figures = call(port, "/metrics", headers=key)[2].decode()
    assert 'requests_total{path="/api/chat",status="200"} 1' in figures
    assert "demitasse_answer_tokens_total 5" in figures


def test_a_service_that_loads_says_so_in_ollamas_form() -> None:
    def broken() -> Model:
        raise DeviceError("bad_model", "no model")

    with service(broken) as port:
        status, fields, answer = call(port, CHAT, HI)
        assert (status, list(answer)) == (503, ["error"]) and fields["retry-after"]
        assert call(port, "/api/ps")[2] == {"models": []}


@pytest.fixture
def calling(tmp_path: Path) -> Callable[[], Model]:
    """A model that begins each answer with a text and then a call."""
    path = tiny_gguf(tmp_path / "tiny.gguf", context=4096, words=["Yes. ", "<tool_call>", "no"])

    def model() -> Model:
        engine = load(path, Settings(threads=1))
        return Model(engine, ChatTemplate(CHATML, engine.special_tokens()))

    return model


def test_a_call_of_a_tool_is_whole_with_its_arguments_as_an_object(
    calling: Callable[[], Model],
) -> None:
    asked = {**HI, "tools": [HEAT], "options": {"num_predict": -1}}
    with service(calling) as port:
        wait_until_loaded(port)
        whole = call(port, CHAT, {**asked, "stream": False})[2]
        parts = lines(port, CHAT, asked)
        cut = call(port, CHAT, {**asked, "stream": False, "options": {"num_predict": 9}})[2]
        made = whole["message"]
        results = [{"role": "tool", "tool_name": "read_heat", "content": "70"}]
        history = [*HI["messages"], made, *results]
        again = call(port, CHAT, {**asked, "messages": history, "stream": False})

    assert made["content"] == "Yes. "
    functions = [each["function"] for each in made["tool_calls"]]
    assert functions
    for number, function in enumerate(functions):
        assert function == {"index": number, "name": "read_heat", "arguments": {}}
    streamed = [
        each["function"] for part in parts for each in part["message"].get("tool_calls", [])
    ]
    assert streamed == functions
    assert (cut["done_reason"], "tool_calls" in cut["message"]) == ("length", False)
    assert again[0] == 200


@dataclass(frozen=True)
class Row:
    """A row of the page: a field or an option, and values that it takes and refuses."""

    name: str
    of: str
    taken: str
    refused: str


def rows(heading: str) -> list[Row]:
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    of = r" ([\w, ]+) \|" if heading == "Fields" else "()"
    found = re.findall(rf"^\| `(\w+)` \|{of} (`.*?`|–) \| (`.*?`|–) \|", part, re.MULTILINE)
    return [Row(*(cell.strip("`") for cell in cells)) for cells in found]


FIELDS, OPTIONS = rows("Fields"), rows("Options")
READERS = {
    "chat": (ollama_requests.read_chat, HI),
    "generate": (ollama_requests.read_generate, {"model": "tiny", "prompt": "hot?"}),
    "embed": (ollama_requests.read_embed, {"model": "tiny", "input": "hot?"}),
    "show": (ollama_requests.read_show, {"model": "tiny"}),
}


def send(of: str, name: str, value: Any) -> None:
    """Read a request with a value of a field, at each path that the page says has it."""
    paths = of.replace("answers", "chat, generate").replace("all", ", ".join(READERS)).split(", ")
    for path in paths:
        read, usual = READERS[path]
        body = {**usual, name: value}
        if name == "name":
            del body["model"]
        read(body, SERVED)


def test_the_page_names_every_field_and_every_option_and_no_other() -> None:
    known = {*ollama_requests.CHAT, *ollama_requests.GENERATE, *ollama_requests.NEUTRAL}
    known |= {*ollama_requests.EMBED, *ollama_requests.SHOW}
    assert {row.name for row in FIELDS} == known
    mapped = {*ollama_requests.MAPPED, *ollama_requests.LOADING, *ollama_requests.NEUTRAL_OPTIONS}
    assert {row.name for row in OPTIONS} == mapped | {"num_ctx"}


@pytest.mark.parametrize("row", FIELDS, ids=lambda row: row.name)
def test_a_field_is_taken_or_refused_as_the_page_says(row: Row) -> None:
    if row.taken != "–":
        send(row.of, row.name, json.loads(row.taken))
    if row.name not in ("model", "input", "name"):
        send(row.of, row.name, None)
    if row.refused != "–":
        for path in row.of.replace("answers", "chat, generate").split(", "):
            with pytest.raises(FieldError) as caught:
                send(path, row.name, json.loads(row.refused))
            field = caught.value.field.partition("[")[0]
            assert field == ("model" if row.name == "name" else row.name)


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row.name)
def test_an_option_is_taken_or_refused_as_the_page_says(row: Row) -> None:
    for value in (json.loads(row.taken), None):
        send("answers, embed", "options", {row.name: value})
    for path in ("chat", "generate"):
        with pytest.raises(FieldError) as caught:
            send(path, "options", {row.name: json.loads(row.refused)})
        assert caught.value.field == f"options.{row.name}"


def test_home_assistants_request_is_read() -> None:
    question = ollama_requests.read_chat(
        {
            "model": "tiny:latest",
            "messages": [
                {"role": "system", "content": "You are a voice assistant."},
                {"role": "user", "content": "Turn on the light"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"function": {"name": "HassTurnOn", "arguments": {"name": "l"}}}
                    ],
                },
                {"role": "tool", "content": '{"success": true}'},
            ],
            "tools": [{"type": "function", "function": {"name": "on"}}],
            "stream": True,
            "think": False,
            "keep_alive": "-1s",
            "options": {"num_ctx": 512},
        },
        SERVED,
    )
    assert question and question.stream and question.tools
    assert question.messages[2]["tool_calls"][0]["function"]["arguments"] == {"name": "l"}
