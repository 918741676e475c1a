"""Calls of tools over HTTP: each parses, validates and comes back as OpenAI's clients read it."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from device.engine import load
from device.engine.base import FieldError, Sampling, Settings
from device.engine.chat import ChatTemplate
from device.manifest import markups
from device.manifest.tool_calls import read_calls
from device.model import Model
from device.serve import schema
from device.serve.api import read_chat
from device.serve.tools import read_tools
from tests.conftest import Rounds
from tests.fakes.service import call, service, wait_until_loaded
from tests.fakes.templates import (
    FUNCTION_GEMMA,
    GEMMA,
    GEMMA4,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_IDS,
    MISTRAL_LIST,
)
from tests.fakes.tiny_gguf import CHATML, tiny_gguf

CHAT = "/v1/chat/completions"
LED: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "set_led",
        "description": "Switch an LED.",
        "parameters": {
            "type": "object",
            "properties": {
                "pin": {"type": "integer", "minimum": 0, "maximum": 27},
                "on": {"type": "boolean"},
                "mode": {"enum": ["steady", "blink"]},
            },
            "required": ["pin", "on"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
NOTE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {
            "type": "object",
            "properties": {
                "Text": {"type": "string", "maxLength": 12},
                "at": {"type": "string", "pattern": "^[0-9]{2}.[^a-f]$"},
                "about": {
                    "type": "object",
                    "properties": {"tags": {"type": "array", "maxItems": 3}, "of": {}},
                    "additionalProperties": False,
                },
                "by": {"enum": ["you", "me", None, 1.5]},
                "count": {"type": "number"},
            },
            "required": ["Text", "at", "by"],
            "additionalProperties": False,
        },
    },
}
HEAT: dict[str, Any] = {"type": "function", "function": {"name": "read_heat"}}
SOAKED = {"chatml": CHATML, "hermes": HERMES, "llama3": LLAMA3, "gemma": GEMMA}
ALIKE = {
    "mistral": MISTRAL,
    "mistral-ids": MISTRAL_IDS,
    "mistral-list": MISTRAL_LIST,
    "functiongemma": FUNCTION_GEMMA,
    "gemma4": GEMMA4,
}
TEMPLATES = SOAKED | ALIKE


def asked(**more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "Light on pin 4, please."}],
        "tools": [LED, HEAT],
        "temperature": 1,
        "top_k": 0,
        "top_p": 1,
        "min_p": 0,
        "max_tokens": -1,
        **more,
    }


def opened(
    folder: Path,
    template: str,
    words: Sequence[str | bytes] = (),
    seed: int = 0,
    *,
    drawn: bool = False,
) -> Callable[[], Model]:
    path = tiny_gguf(folder / "tiny.gguf", context=4096, words=words, seed=seed, drawn=drawn)

    def model() -> Model:
        engine = load(path, Settings(threads=1))
        return Model(engine, ChatTemplate(template, engine.special_tokens()))

    return model


@pytest.fixture(scope="module", params=TEMPLATES)
def port(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[int]:
    folder = tmp_path_factory.mktemp(request.param)
    with service(opened(folder, TEMPLATES[request.param])) as port:
        wait_until_loaded(port)
        yield port


def events(port: int, path: str, body: dict[str, Any]) -> list[Any]:
    """Return the events of a stream; the last is the end mark."""
    lines = call(port, path, body)[2].decode().split("\n\n")
    data = [line[len("data: ") :] for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


def check(calls: list[dict[str, Any]]) -> None:
    """Fail unless every call is of a tool and its arguments fit its schema."""
    schemas = {
        "set_led": LED["function"]["parameters"],
        "read_heat": {"type": "object", "maxProperties": 0},
        "note": NOTE["function"]["parameters"],
    }
    assert calls
    for each in calls:
        function = each["function"]
        jsonschema.validate(json.loads(function["arguments"]), schemas[function["name"]])
        assert each["id"].startswith("call_") and each["type"] == "function"


def test_a_required_call_parses_validates_and_ends(port: int) -> None:
    for seed in range(4):
        single = asked(tool_choice="required", seed=seed, parallel_tool_calls=seed < 1)
        status, _, body = call(port, CHAT, single)
        choice = body["choices"][0]
        assert (status, choice["finish_reason"]) == (200, "tool_calls")
        assert choice["message"]["content"] is None
        check(choice["message"]["tool_calls"])


def test_a_tool_that_is_named_is_the_one_that_is_called(port: int) -> None:
    named = {"type": "function", "function": {"name": "read_heat"}}
    body = call(port, CHAT, asked(tool_choice=named, parallel_tool_calls=False))[2]
    (only,) = body["choices"][0]["message"]["tool_calls"]
    assert only["function"]["name"] == "read_heat"
    assert json.loads(only["function"]["arguments"]) == {}


@pytest.mark.sampled(3)
def test_the_parts_of_a_stream_make_the_calls_of_the_whole_answer(port: int) -> None:
    for seed in range(2):
        request = asked(tool_choice="required", seed=seed)
        whole = call(port, CHAT, request)[2]["choices"][0]
        calls: list[dict[str, Any]] = []
        for chunk in events(port, CHAT, {**request, "stream": True}):
            (choice,) = chunk["choices"]
            for delta in choice["delta"].get("tool_calls", []):
                if delta["index"] == len(calls):
                    calls.append(
                        {
                            "id": delta["id"],
                            "type": delta["type"],
                            "function": {**delta["function"]},
                        }
                    )
                else:
                    calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
        assert choice["finish_reason"] == "tool_calls"
        assert [each["function"] for each in calls] == [
            each["function"] for each in whole["message"]["tool_calls"]
        ]


def test_a_history_with_calls_and_results_is_answered(port: int) -> None:
    made = call(port, CHAT, asked(tool_choice="required", seed=1))[2]["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": each["id"], "content": '{"ok": true}'}
        for each in made["tool_calls"]
    ]
    request = asked(max_tokens=4)
    request["messages"] += [made, *results]
    assert call(port, CHAT, request)[0] == 200
    without = {**request, "messages": [*request["messages"], {"role": "user", "content": "And?"}]}
    del without["tools"]
    assert call(port, CHAT, without)[0] == 200


def test_another_question_to_the_same_tools_reads_none_of_them_again(port: int) -> None:
    call(port, CHAT, asked(max_tokens=1))
    other = asked(max_tokens=1)
    other["messages"] = [{"role": "user", "content": "How warm is it?"}]
    timings = call(port, CHAT, other)[2]["timings"]
    assert timings["cache_n"] > 5 * timings["prompt_n"]


STARTS = {
    "the trigger is a token": ("chatml", ["Yes. ", "<tool_call>", "no"], "Yes. "),
    "in parts, after a line break": ("hermes", ["Yes.", "\n\n<tool", "_call>", "no"], "Yes."),
    "with the head's first text": ("chatml", ["Yes.\n<tool_call>\n{", "no"], "Yes."),
    "without any text": ("hermes", ["<tool_call>\n", "no"], None),
    "llama 3": ("llama3", ['{"name"', ': "', "no"], None),
    "llama 3, after a line break": ("llama3", ["\n\n", ' {"name": "', "no"], None),
}


@pytest.mark.parametrize("start", STARTS)
def test_an_answer_that_begins_as_a_call_is_held_to_the_tools(start: str, tmp_path: Path) -> None:
    template, words, content = STARTS[start]
    with service(opened(tmp_path, TEMPLATES[template], words)) as port:
        wait_until_loaded(port)
        choice = call(port, CHAT, asked(temperature=0))[2]["choices"][0]
        chunks = events(port, CHAT, asked(temperature=0, stream=True))
    check(choice["message"]["tool_calls"])
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, "tool_calls")
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(texts) == (content or "")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("chatml", ["Write <tool_call and ", '{"name": "x"', "<tool>\n\n", "<tool_cal"]),
        ("llama3", ["It is: ", '{"name": "set_led"', ', "parameters": {}}']),
        ("llama3", ['{"name', '": 1}']),
    ],
)
def test_a_text_that_only_looks_like_a_call_stays_text(
    template: str, said: list[str], tmp_path: Path
) -> None:
    with service(opened(tmp_path, TEMPLATES[template], said)) as port:
        wait_until_loaded(port)
        whole = call(port, CHAT, asked(temperature=0))[2]["choices"][0]
        chunks = events(port, CHAT, asked(temperature=0, stream=True))
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert (whole["message"]["content"], whole["finish_reason"]) == ("".join(said), "stop")
    assert "".join(texts) == "".join(said)
    assert "tool_calls" not in whole["message"]


def test_a_token_that_goes_on_otherwise_than_a_call_is_not_chosen(tmp_path: Path) -> None:
    words = ["Yes. ", "<tool_call>[1, 2]", "no"]
    with service(opened(tmp_path, CHATML, words)) as port:
        wait_until_loaded(port)
        status, _, body = call(port, CHAT, asked(temperature=0, max_tokens=40))
    assert status == 200
    assert "<tool_call>[" not in str(body["choices"][0]["message"]["content"])


def test_a_choice_of_none_hides_the_tools(port: int) -> None:
    body = call(port, CHAT, asked(tool_choice="none", max_tokens=2))[2]
    plain = call(port, CHAT, {"messages": asked()["messages"], "max_tokens": 1})[2]
    assert body["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def named(**function: Any) -> dict[str, Any]:
    return asked(tools=[{"type": "function", "function": {"name": "f", **function}}])


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked(tools="all"), "`tools`: must be a list of at most 128 tools"),
        (asked(tools=[LED] * 129), "`tools`: must be a list of at most 128 tools"),
        (asked(tools=[LED, LED]), "`tools`: `set_led` stands there twice"),
        (named(description="x" * 70_000), "`tools`: has 70,068 bytes of JSON, and at most 65,536"),
        (
            asked(tools=[{"type": "web_search"}]),
            '`tools[0]`: `type` must be "function": no other tools are here',
        ),
        (
            asked(tools=[{"type": "function", "function": {"name": "a b"}}]),
            "`tools[0].function.name`: must be 1 to 64 letters, digits, `_` and `-`",
        ),
        (named(colour=1), "`tools[0].function.colour`: is not a field of a function"),
        (
            named(parameters={"type": "array"}),
            "`tools[0].function.parameters`: must be the schema of an object",
        ),
        (
            named(parameters={"properties": {"x": {"type": "array", "uniqueItems": True}}}),
            "`tools`: `f`: parameters.x: `uniqueItems` is understood of `enum`",
        ),
        (asked(tools=[], tool_choice="required"), "`tool_choice`: `required` needs `tools`"),
        (
            asked(tool_choice={"type": "function", "function": {"name": "g"}}),
            "`tool_choice`: `g` is not among the `tools`",
        ),
        (asked(tool_choice=["auto"]), "`tool_choice`: must be `none`, `auto`, `required` or"),
        (asked(parallel_tool_calls=1), "`parallel_tool_calls`: must be true or false"),
    ],
)
def test_tools_that_cannot_be_served_are_refused_by_name(
    request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(FieldError) as caught:
        read_chat(json.dumps(request_).encode(), 32)
    assert caught.value.message.startswith(message)


REPORT = {
    "type": "json_schema",
    "json_schema": {
        "name": "report",
        "schema": {"type": "object", "properties": {"hot": {"enum": [1]}}, "required": ["hot"]},
    },
}


def test_beside_tools_an_answer_is_calls_or_json_that_fits(tmp_path: Path) -> None:
    model = opened(tmp_path, TEMPLATES["hermes"])()
    assert model.template
    spoken = model.template.markup
    question = read_chat(json.dumps(asked(response_format=REPORT)).encode(), 32)
    assert question.tools
    prompt = model.prompt(question.messages, tools=question.tools.shown)

    kinds = set()
    for seed in range(8):
        free = Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=3000)
        steps = list(model.engine.generate(prompt.tokens, question.tools.held(free, spoken)))
        text, calls = read_calls("".join(step.text for step in steps), spoken, cut=False)
        kinds.add(bool(calls))
        if calls:
            assert not text
            check(list(calls))
        else:
            assert json.loads(text) == {"hot": 1}
    assert kinds == {True, False}
    model.engine.close()


def test_a_template_whose_calls_are_json_or_no_json_refuses_a_format_beside_tools() -> None:
    question = read_chat(json.dumps(asked(response_format=REPORT)).encode(), 32)
    assert question.tools
    for markup in (markups.LLAMA3, markups.FUNCTION_GEMMA):
        with pytest.raises(FieldError, match="`response_format`: cannot hold an answer that may"):
            question.tools.held(Sampling(), markup)


def test_an_answer_that_must_be_a_call_takes_no_json_in_its_place() -> None:
    question = read_chat(
        json.dumps(asked(response_format=REPORT, tool_choice="required")).encode(), 32
    )
    assert question.tools
    assert "hot" not in question.tools.held(Sampling(), markups.LLAMA3).grammar


def sampled(model: Model, seed: int, *more: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of an answer that was drawn at temperature 1; fail unless it ended.

    `more` are tools beside the LED and the temperature.
    """
    assert model.template
    markup = model.template.markup
    choice: Any = "required"
    if more and seed % 2:  # weights that favour a short name would hardly ever call the long one
        choice = {"type": "function", "function": {"name": more[0]["function"]["name"]}}
    one_call = {"tool_choice": choice, "parallel_tool_calls": False}
    tools = read_tools({"tools": [LED, HEAT, *more], **one_call})
    assert tools
    prompt = model.prompt(asked()["messages"], tools=tools.shown)

    free = Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=3000)
    steps = list(model.engine.generate(prompt.tokens, tools.held(free, markup)))
    assert steps[-1].finish_reason == "stop"
    return list(read_calls("".join(step.text for step in steps), markup, cut=False)[1])


@pytest.mark.soak(row=25, short=12, whole=2500)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("template", SOAKED)
def test_sampled_calls_all_parse_validate_and_end(
    template: str, tmp_path: Path, rounds: Rounds
) -> None:
    draw_all(tmp_path, TEMPLATES[template], rounds)


@pytest.mark.soak(row=25, short=12, whole=500)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("template", ALIKE)
def test_sampled_calls_in_other_markups_all_parse_validate_and_end(
    template: str, tmp_path: Path, rounds: Rounds
) -> None:
    draw_all(tmp_path, TEMPLATES[template], rounds, NOTE)


def test_a_raw_text_of_bounded_length_is_counted_by_single_characters() -> None:
    # A drawn text had 13 characters where 12 are the most: `<` with its next one counted as one.
    grammar = schema.calls(
        {"note": NOTE["function"]["parameters"]}, markups.FUNCTION_GEMMA, 1, whole=True
    )
    assert r'"<escape>" [^<\x00]{0,12} "<escape>"' in grammar
    assert "char{" not in grammar


def draw_all(folder: Path, template: str, rounds: Rounds, *more: dict[str, Any]) -> None:
    """Draw a call in each round; fail unless each ends, parses and fits its schema."""
    # Google's vocabularies have the mark around a text as one token; weights that draw it byte by
    # byte hardly ever end a text without a bound.
    quotes = [each for each in (b"<escape>", b'<|"|>') if each.decode() in template]
    # Weights that favour a name favour it in every call, so each hundred calls has others.
    weights, model = -1, None
    for seed in rounds:
        if seed // 100 != weights:
            weights = seed // 100
            if model:
                model.engine.close()
            model = opened(folder, template, quotes, seed=weights, drawn=True)()
        assert model
        calls = sampled(model, seed, *more)
        check(calls)
        rounds.saw(f"{len(calls)} call of {calls[0]['function']['name']}")
    if model:
        model.engine.close()


FREE = {
    "type": "function",
    "function": {
        "name": "say",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


def tool(name: str, **value: Any) -> dict[str, Any]:
    """Return a tool with one argument of this schema."""
    parameters = {"type": "object", "properties": {"value": value}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    ("tools", "keeps"),
    [
        ([LED], True),
        ([FREE], False),
        ([FREE, LED], True),
        ([tool("fan", maximum=100)], True),
        ([tool("fan", multipleOf=5)], True),
        ([tool("door", type="string", maxLength=4)], True),
        ([tool("relay_1", type="boolean")], True),
        ([tool("relay", type="boolean")], False),
    ],
)
def test_a_call_is_held_until_it_is_over_where_a_figure_may_be_changed(
    tools: list[dict[str, Any]], keeps: bool
) -> None:
    asked = read_tools({"tools": tools})
    assert asked is not None
    trigger = asked.held(Sampling(), markups.HERMES).trigger
    assert trigger is not None
    assert trigger.keeps_figures is keeps
