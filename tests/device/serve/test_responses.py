"""The Responses API: OpenAI's own library reads it, and what cannot be served has a name."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from device.engine.base import FieldError, Settings
from device.errors import DeviceError
from device.feedback import FOLDER, Ring
from device.model import Model, open_file
from device.serve import responses_requests
from device.serve.responses_requests import read_response
from tests.device.serve.test_tools import HERMES, LED, opened
from tests.fakes.engine import FakeEngine
from tests.fakes.service import call, service, tiny_service, wait_until_loaded
from tests.fakes.tiny_gguf import tiny_gguf

PAGE = (Path(__file__).parents[3] / "docs" / "responses.md").read_text(encoding="utf-8")
PATH = "/v1/responses"
SWITCH: dict[str, Any] = {"type": "function", **LED["function"]}
HEAT: dict[str, Any] = {"type": "function", "name": "read_heat", "strict": None}
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


class Report(BaseModel):
    topic: Literal["heat", "power"]
    urgent: bool


CLIENTS: list[openai.OpenAI] = []


def client_of(port: int) -> openai.OpenAI:
    """Return OpenAI's client of a port; it is closed with the test."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    CLIENTS.append(client)
    return client


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().close()


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tiny_service(tmp_path_factory.mktemp("served")) as number:
        yield number


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a model that begins each answer with a text and then a call."""
    words = ["Yes. ", "<tool_call>", "no"]
    with service(opened(tmp_path_factory.mktemp("calling"), HERMES, words)) as number:
        wait_until_loaded(number)
        yield number


def once(names: list[str]) -> list[str]:
    """Return names without those that follow themselves."""
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


def test_openais_library_reads_an_answer_and_sends_it_back(port: int) -> None:
    client = client_of(port)
    reply = client.responses.create(
        model="tiny", input="hi", instructions="Be warm.", metadata={"a": "b"}, store=False
    )
    assert (reply.output_text, reply.status, reply.object) == ("warm!", "completed", "response")
    assert (reply.metadata, reply.instructions, reply.store) == ({"a": "b"}, "Be warm.", False)
    again = client.responses.create(
        model="tiny",
        input=[  # type: ignore[list-item]
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            *[item.to_dict() for item in reply.output],
            {"type": "message", "role": "user", "content": "and now?"},
        ],
    )
    assert again.output_text == "warm!"


def test_the_figures_are_those_of_a_conversation(port: int) -> None:
    messages = [{"role": "system", "content": "Be warm."}, {"role": "user", "content": "hi"}]
    usage = call(port, "/v1/chat/completions", {"messages": messages})[2]["usage"]
    own = call(port, PATH, {"input": "hi", "instructions": "Be warm."})[2]["usage"]
    assert own["input_tokens"] == usage["prompt_tokens"]
    assert (own["output_tokens"], own["total_tokens"]) == (5, usage["total_tokens"])
    assert 0 < own["input_tokens_details"]["cached_tokens"] < own["input_tokens"]


def test_the_events_of_a_text_come_in_order_and_say_what_the_whole_answer_says(port: int) -> None:
    events = list(client_of(port).responses.create(model="tiny", input="hi", stream=True))
    assert once([event.type for event in events]) == TEXT_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "warm!"
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "warm!" and last.response.usage
    with client_of(port).responses.stream(model="tiny", input="hi") as stream:
        assert stream.get_final_response().output_text == "warm!"


def streamed(port: int, body: Mapping[str, Any]) -> list[Any]:
    """Return the events of a stream; fail if one is not named as its type."""
    _, fields, raw = call(port, PATH, {**body, "stream": True})
    assert fields["content-type"].startswith("text/event-stream")
    events = []
    for part in raw.decode().removesuffix("\n\n").split("\n\n"):
        if not part.startswith(":"):
            name, _, data = part.removeprefix("event: ").partition("\ndata: ")
            events.append(json.loads(data))
            assert events[-1]["type"] == name
    return events


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"a": "b"}, "reasoning": {"effort": "low"}, "top_logprobs": 2},
        {"tools": [SWITCH, HEAT], "max_output_tokens": -1, "text": {"verbosity": "low"}},
        {"max_output_tokens": 2, "instructions": "Be short.", "user": "me"},
    ],
)
def test_replies_and_events_are_valid_by_openais_types(calling: int, body: dict[str, Any]) -> None:
    asked = {"input": "hi", **body}
    Response.model_validate(call(calling, PATH, asked)[2])
    event_type: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in streamed(calling, asked):
        assert event_type.validate_python(event).type == event["type"]


def test_an_engine_that_fails_while_it_answers_ends_the_stream_with_its_error() -> None:
    engine = FakeEngine(word="warm ")
    engine.failure = DeviceError("engine_failed", "the engine gave up")
    with service(engine.model) as port:
        wait_until_loaded(port)
        last = streamed(port, {"input": "hi"})[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["message"] == "the engine gave up"
        engine.failure = None
        assert call(port, PATH, {"input": "hi", "max_output_tokens": 2})[0] == 200


def test_a_pydantic_model_is_parsed_of_an_answer(port: int) -> None:
    asked: Any = {"model": "tiny", "input": "hi", "max_output_tokens": 400}
    reply = client_of(port).responses.parse(**asked, text_format=Report)
    assert isinstance(reply.output_parsed, Report)
    with client_of(port).responses.stream(**asked, text_format=Report) as stream:
        assert stream.get_final_response().output_parsed == reply.output_parsed


def test_an_answer_that_is_cut_off_is_incomplete(port: int) -> None:
    body = {"input": "hi", "max_output_tokens": 2}
    reply = call(port, PATH, body)[2]
    assert (reply["status"], reply["output"][0]["status"]) == ("incomplete", "incomplete")
    assert reply["incomplete_details"] == {"reason": "max_output_tokens"}
    assert reply["output"][0]["content"][0]["text"] == "wa"
    events = list(
        client_of(port).responses.create(model="tiny", input="hi", max_output_tokens=2, stream=True)
    )
    assert events[-1].type == "response.incomplete"


def test_log_probabilities_come_with_each_token_of_a_text(port: int) -> None:
    asked = {"input": "hi", "include": [responses_requests.LOGPROBS], "top_logprobs": 2}
    (part,) = call(port, PATH, asked)[2]["output"][0]["content"]
    assert [each["token"] for each in part["logprobs"]] == list("warm!")
    assert all(len(each["top_logprobs"]) == 2 for each in part["logprobs"])
    events = client_of(port).responses.create(
        model="tiny", input="hi", include=["message.output_text.logprobs"], stream=True
    )
    deltas = [e.logprobs for e in events if e.type == "response.output_text.delta"]
    assert [each.token for delta in deltas for each in delta] == list("warm!")


def called(port: int, **more: Any) -> Any:
    body = {"input": "Light on pin 4.", "tools": [SWITCH, HEAT], "max_output_tokens": -1}
    return call(port, PATH, {**body, **more})[2]


def test_a_text_and_its_calls_are_items_and_go_back_with_their_results(calling: int) -> None:
    client = client_of(calling)
    asked: list[Any] = [{"role": "user", "content": "Light on pin 4."}]
    tools: list[Any] = [SWITCH, HEAT]
    for _ in range(2):
        reply = client.responses.create(
            model="tiny", input=asked, tools=tools, max_output_tokens=3000
        )
        kinds = [item.type for item in reply.output]
        assert kinds == ["message"] + ["function_call"] * (len(kinds) - 1) and len(kinds) > 1
        assert reply.output_text == "Yes. "
        calls = [item for item in reply.output if isinstance(item, ResponseFunctionToolCall)]
        assert all(set(json.loads(each.arguments)) <= {"pin", "on", "mode"} for each in calls)
        results = [
            {"type": "function_call_output", "call_id": each.call_id, "output": "ok"}
            for each in calls
        ]
        asked += [*reply.output, *results]


def test_the_events_of_calls_make_the_items_of_the_whole_answer(calling: int) -> None:
    whole = called(calling, tool_choice="required")
    with client_of(calling).responses.stream(
        model="tiny",
        input="Light on pin 4.",
        tools=[SWITCH, HEAT],  # type: ignore[list-item]
        tool_choice="required",
        max_output_tokens=-1,
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    made = [(item["name"], item["arguments"]) for item in whole["output"]]
    items = [item for item in final.output if isinstance(item, ResponseFunctionToolCall)]
    assert made and [(item.name, item.arguments) for item in items] == made
    done = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert [(e.name, e.arguments) for e in done] == made
    for number, item in enumerate(items):
        deltas = [
            e.delta
            for e in events
            if e.type == "response.function_call_arguments.delta" and e.output_index == number
        ]
        assert "".join(deltas) == item.arguments


def test_a_function_by_its_name_is_the_one_that_is_called(calling: int) -> None:
    choice = {"type": "function", "name": "read_heat"}
    (item,) = called(calling, tool_choice=choice, parallel_tool_calls=False)["output"]
    assert (item["type"], item["name"], item["status"]) == (
        "function_call",
        "read_heat",
        "completed",
    )
    assert item["id"].startswith("fc_") and item["call_id"].startswith("call_")


def test_a_call_that_is_cut_off_is_incomplete(calling: int) -> None:
    choice = {"type": "function", "name": "set_led"}
    reply = called(calling, max_output_tokens=45, tool_choice=choice)
    (half,) = reply["output"]
    assert (half["name"], half["status"], reply["status"]) == ("set_led",) + ("incomplete",) * 2
    with pytest.raises(ValueError):
        json.loads(half["arguments"])


def test_an_answer_can_be_rated_by_its_id(tmp_path: Path) -> None:
    ring = Ring(tmp_path / FOLDER, 1 << 20)
    file = tiny_gguf(tmp_path / "tiny.gguf", recites="warm!")
    with service(lambda: open_file(file, Settings(threads=1)), ring=ring) as rated:
        wait_until_loaded(rated)
        name = call(rated, PATH, {"input": "hi"})[2]["id"]
        assert call(rated, "/v1/feedback", {"id": name, "rating": 1})[0] == 200
    assert name.startswith("resp_")
    assert [row["answer"] for row in ring.rows()] == ["warm!"]


def test_the_token_guards_it_and_the_counters_name_it(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", recites="warm!")
    key = {"authorization": "Bearer a-token-of-a-test"}
    with service(lambda: open_file(file, Settings(threads=1)), token="a-token-of-a-test") as port:
        wait_until_loaded(port)
        assert call(port, PATH, {"input": "hi"})[0] == 401
        assert call(port, PATH, {"input": "hi"}, headers=key)[0] == 200
        figures = call(port, "/metrics", headers=key)[2].decode()
    assert f'requests_total{{path="{PATH}",status="200"}} 1' in figures
    assert "demitasse_answer_tokens_total 5" in figures


def test_a_service_that_loads_says_so() -> None:
    def broken() -> Model:
        raise DeviceError("bad_model", "no model")

    with service(broken) as port:
        status, fields, answer = call(port, PATH, {"input": "hi"})
    assert (status, answer["error"]["type"]) == (503, "unavailable_error")
    assert fields["retry-after"]


CALL = {"type": "function_call", "call_id": "c1", "name": "read_heat", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "70"}
USER = {"role": "user", "content": "hot?"}


def test_the_items_of_one_answer_become_one_message_with_its_results_after_it() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    text = {"type": "output_text", "text": "I look.", "annotations": []}
    said = {"type": "message", "id": "msg_1", "role": "assistant", "content": [text]}
    second = {**CALL, "call_id": "c2", "id": "fc_2", "status": "completed"}
    parts = [{"type": "input_text", "text": "7"}, {"type": "input_text", "text": "1"}]
    items = [USER, said, reasoning, CALL, second, RESULT, {**RESULT, "call_id": "c2"}]
    items[-1] = {**RESULT, "call_id": "c2", "output": parts}
    asked = read_response({"input": items, "instructions": "Be short."}, 32)
    made = [
        {"id": n, "type": "function", "function": {"name": "read_heat", "arguments": {}}}
        for n in ("c1", "c2")
    ]
    assert asked.question.messages == (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hot?"},
        {"role": "assistant", "content": "I look.", "tool_calls": made},
        {"role": "tool", "content": "70", "tool_call_id": "c1", "name": "read_heat"},
        {"role": "tool", "content": "71", "tool_call_id": "c2", "name": "read_heat"},
    )


def tools(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "name": "f", **function}]}


def form(**fields: Any) -> dict[str, Any]:
    return {"text": {"format": fields}}


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": ""}, "input", "the question is empty"),
    ({"input": [USER, {**USER, "content": " "}]}, "input", "the question is empty"),
    ({"input": None}, "input", "must be a text, or a list of 1 to 512 items"),
    ({"input": [USER] * 513}, "input", "must be a text, or a list of 1 to 512 items"),
    ({"input": ["hot?"]}, "input[0]", "must be an object, a message with"),
    ({"input": [{"type": "reasoning"}], "instructions": "a"}, "input", "the question is empty"),
    ({"input": [{**USER, "role": "tool"}]}, "input[0].role", "must be one of user, assistant"),
    ({"input": [{**USER, "colour": 1}]}, "input[0].colour", "is not a field of a message"),
    ({"input": [{"role": "user"}]}, "input[0].content", "must be a text"),
    ({"instructions": "a", "input": [USER, {**USER, "content": 5}]}, "input[1].content", "must"),
    (
        {"input": [{**USER, "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content",
        "a picture comes as a `data:` URL of a JPEG or PNG file",
    ),
    (
        {"input": [{**USER, "content": [{"type": "input_image", "file_id": "f"}]}]},
        "input[0].content",
        "nothing is stored: send the picture in `image_url`",
    ),
    (
        {"input": [{**USER, "content": [{"type": "input_image", "colour": 1}]}]},
        "input[0].content",
        "`colour` is not a field of a picture",
    ),
    (
        {"input": [{**USER, "role": "system", "content": [{"type": "input_image"}]}, USER]},
        "input[0].content",
        "a picture is read in a question alone, whose `role` is `user`",
    ),
    ({"input": [{"type": "item_reference", "id": "m"}]}, "input[0]", "nothing is stored: send"),
    ({"input": [{"type": "mcp_call", "id": "m"}]}, "input[0]", "`mcp_call` is not supported here"),
    ({"input": [USER, RESULT]}, "input[1].call_id", "no `function_call` before it has the id `c1`"),
    ({"input": [USER, CALL, CALL]}, "input[2].call_id", "`c1` stands there twice"),
    ({"input": [USER, {**CALL, "arguments": {}}]}, "input[1].arguments", "must be a text"),
    ({"input": [USER, CALL, {**RESULT, "output": None}]}, "input[2].output", "must be a text"),
    ({"input": [USER, CALL, {**RESULT, "output": 5}]}, "input[2].output", "must be a text"),
    ({"max_output_tokens": "many"}, "max_output_tokens", "must be a whole number between"),
    ({"tools": {}}, "tools", "must be a list of tools"),
    ({"tools": [SWITCH, SWITCH]}, "tools", "`set_led` stands there twice"),
    ({"tools": [{"type": "file_search"}]}, "tools[0].type", "`file_search` is a tool of the prov"),
    ({"tools": [LED]}, "tools[0].function", "is the form of /v1/chat/completions"),
    (tools(name="a b"), "tools[0].name", "must be 1 to 64 letters"),
    (tools(colour=1), "tools[0].colour", "is not a field of a function"),
    (tools(defer_loading=True), "tools[0].defer_loading", "is not supported here"),
    (tools(parameters={"type": "array"}), "tools[0].parameters", "must be the schema of an"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "`allowed_tools` is not supported"),
    ({"tool_choice": {"type": "function"}}, "tool_choice", "must be `none`, `auto`, `required` or"),
    ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "`g` is not among the"),
    (form(type="json_schema"), "text.format", "`json_schema` needs a `schema`"),
    (form(type="json_schema", schema={}, strict=1), "text.format", "`strict` is of a wrong kind"),
    (form(type="json_schema", schema={"not": {}}), "text.format", "schema: no value fits"),
    ({"text": {"colour": 1}}, "text.colour", "is not a field of this request"),
    ({"text": {"verbosity": "loud"}}, "text.verbosity", "is not supported here"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "is not supported here"),
    ({"reasoning": {"summary": "long"}}, "reasoning.summary", "must be one of auto, concise"),
    ({"reasoning": []}, "reasoning", "must be an object"),
    ({"metadata": {"a" * 65: "b"}}, "metadata", "must be an object of at most 16 texts"),
    ({"colour": 1}, "colour", "is not a field of this request"),
]


@pytest.mark.parametrize(("body", "field", "problem"), REFUSED)
def test_what_cannot_be_served_is_refused_by_the_name_that_its_client_gave_it(
    body: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(FieldError) as caught:
        read_response({"input": "hot?", **body}, 32)
    assert caught.value.field == field
    assert caught.value.message.startswith(f"`{field}`: {problem}")


def test_what_an_engine_refuses_has_the_name_of_this_api() -> None:
    error = responses_requests.renamed(FieldError("response_format", "the engine has no grammars"))
    assert error.message == "`text.format`: the engine has no grammars"
    assert responses_requests.renamed(FieldError("logit_bias", "no")).field == "logit_bias"


def test_a_refusal_has_openais_shape(port: int) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client_of(port).responses.create(model="m", input="hi", previous_response_id="resp_1")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "unsupported")
    with pytest.raises(openai.BadRequestError) as caught:
        client_of(port).responses.create(model="m", input="a" * 600)
    assert "the prompt has 6" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client_of(port).responses.retrieve("resp_1")


def rows() -> list[tuple[str, str, str]]:
    """Return field, value that is taken and value that is refused of each row of the page."""
    return re.findall(r"^\| `(\w+)` \| (`.*?`|–) \| (`.*?`|–) \|", PAGE, re.MULTILINE)


def send(name: str, value: Any) -> None:
    usual: Mapping[str, Any] = (
        {"input": "hot?", "tools": [HEAT]} if name != "text" else {"input": "hot?"}
    )
    read_response({**usual, name: value}, 32)


def test_the_page_names_every_field_and_no_other() -> None:
    known = {*responses_requests.DIRECT, *responses_requests.OWN, *responses_requests.NEUTRAL}
    known |= {*responses_requests.TAKEN, *responses_requests.CHAT_NAMES}
    assert {name for name, _, _ in rows()} == known


@pytest.mark.parametrize(("name", "taken", "refused"), rows())
def test_a_field_is_taken_or_refused_as_the_page_says(name: str, taken: str, refused: str) -> None:
    if taken != "–":
        send(name, json.loads(taken.strip("`")))
    if name != "input":
        send(name, None)
    if refused != "–":
        with pytest.raises(FieldError) as caught:
            send(name, json.loads(refused.strip("`")))
        assert re.split(r"[\[.]", caught.value.field)[0] == name
