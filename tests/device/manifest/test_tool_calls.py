"""Calls of tools are shown, written and read back in a template's own markup."""

import json
from typing import Any

import pytest

from device.engine.chat import ChatTemplate
from device.manifest.markups import (
    FUNCTION_GEMMA,
    GEMMA4,
    GENERIC,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_IDS,
    MISTRAL_LIST,
    NATIVE,
)
from device.manifest.tool_calls import Reader, read_calls
from tests.fakes.templates import FUNCTION_GEMMA as FUNCTION_GEMMA_TEMPLATE
from tests.fakes.templates import GEMMA
from tests.fakes.templates import HERMES as HERMES_TEMPLATE
from tests.fakes.templates import LLAMA3 as LLAMA3_TEMPLATE
from tests.fakes.templates import MISTRAL as MISTRAL_TEMPLATE
from tests.fakes.templates import MISTRAL_IDS as MISTRAL_IDS_TEMPLATE
from tests.fakes.templates import MISTRAL_LIST as MISTRAL_LIST_TEMPLATE
from tests.fakes.tiny_gguf import CHATML

TOOL = {
    "type": "function",
    "function": {"name": "set_led", "description": "Light.", "parameters": {"type": "object"}},
}


def called(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Light!"},
    {"role": "assistant", "content": "", "tool_calls": [called("set_led", pin=4, note='ü "x"')]},
    {"role": "tool", "content": "done", "tool_call_id": "c1"},
    {"role": "user", "content": "And now?"},
]


@pytest.mark.parametrize(
    ("source", "name", "in_question"),
    [
        (HERMES_TEMPLATE, "hermes", False),
        (LLAMA3_TEMPLATE, "llama3", False),
        (MISTRAL_TEMPLATE, "mistral", False),
        (MISTRAL_IDS_TEMPLATE, "mistral-ids", False),
        (MISTRAL_LIST_TEMPLATE, "mistral-list", False),
        (FUNCTION_GEMMA_TEMPLATE, "functiongemma", False),
        (CHATML, "generic", False),
        (GEMMA, "generic", True),
    ],
)
def test_the_markup_is_found_by_rendering_a_call(source: str, name: str, in_question: bool) -> None:
    markup = ChatTemplate(source, {}).markup
    assert (markup.name, markup.in_question) == (name, in_question)


@pytest.mark.parametrize("source", [HERMES_TEMPLATE, LLAMA3_TEMPLATE])
def test_a_template_with_tools_renders_as_transformers_renders_it(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs, _ = render_jinja_template(
        [TALK], tools=[TOOL], chat_template=source, add_generation_prompt=True
    )
    assert ChatTemplate(source, {}).render(TALK, tools=[TOOL]) == theirs[0]


@pytest.mark.parametrize("source", [HERMES_TEMPLATE, LLAMA3_TEMPLATE, CHATML, GEMMA])
def test_a_call_in_a_prompt_is_written_as_the_grammar_lets_it_be_answered(source: str) -> None:
    template = ChatTemplate(source, {})
    text = template.render(TALK, tools=[TOOL])
    assert template.markup.call("set_led", {"pin": 4, "note": 'ü "x"'}) in text
    assert "done" in text and "set_led" in text.partition("Light!")[0]


def test_several_calls_are_shown_one_a_turn_where_the_template_takes_one() -> None:
    both = [called("set_led", pin=1), called("set_led", pin=2)]
    talk = [TALK[0], {"role": "assistant", "content": "", "tool_calls": both}, TALK[3]]
    text = ChatTemplate(LLAMA3_TEMPLATE, {}).render(talk, tools=[TOOL])
    assert text.count('{"name": "set_led", "parameters": ') == 2


def test_instructions_and_tools_stand_in_one_system_turn() -> None:
    talk = [{"role": "system", "content": "Be brief."}, *TALK[:1]]
    text = ChatTemplate(CHATML, {}).render(talk, tools=[TOOL])
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert text.count("<|im_start|>system") == 1


@pytest.mark.parametrize("markup", [*NATIVE, GENERIC])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_calls_are_read_back_however_the_text_is_cut(markup: Any, size: int) -> None:
    arguments = {"note": 'a } " \\ {', "deep": [{"x": {}}], "pin": 4}
    calls = [called("set_led", **arguments)] * (2 if markup.several else 1)
    text = ("Yes:\n" if markup.anywhere else "") + markup.calls(calls)
    reader = Reader(markup)
    pieces = [
        piece for at in range(0, len(text), size) for piece in reader.feed(text[at : at + size])
    ]
    pieces += reader.end(cut=False)
    assert "".join(p.text for p in pieces if p.call is None) == ("Yes:" if markup.anywhere else "")
    for number in range(len(calls)):
        parts = [piece for piece in pieces if piece.call == number]
        assert json.loads("".join(part.text for part in parts)) == arguments
        assert [part.name for part in parts if part.name] == ["set_led"]


MISTRALS = {
    "mistral": MISTRAL_TEMPLATE,
    "mistral-ids": MISTRAL_IDS_TEMPLATE,
    "mistral-list": MISTRAL_LIST_TEMPLATE,
}


@pytest.mark.parametrize("name", MISTRALS)
def test_a_history_that_a_mistral_template_renders_is_read_back(name: str) -> None:
    # Ids of a client are of any form, and two of these templates take nine characters alone.
    calls = [{**called("set_led", pin=4, note="a ] }"), "id": "call_1"}, called("set_led", pin=5)]
    talk = [TALK[0], {"role": "assistant", "content": "", "tool_calls": calls}]
    talk += [{"role": "tool", "content": "done", "tool_call_id": each["id"]} for each in calls]
    template = ChatTemplate(MISTRALS[name], {})
    text = template.render(talk, tools=[TOOL])
    answer = text[text.index("[TOOL_CALLS]") : text.index("</s>")]
    assert answer == template.markup.calls(calls)
    content, found = read_calls(answer, template.markup, cut=False)
    assert (content, [json.loads(each["function"]["arguments"]) for each in found]) == (
        "",
        [each["function"]["arguments"] for each in calls],
    )


def test_a_history_that_functiongemmas_template_renders_is_read_back() -> None:
    arguments = {
        "Zone": 'a "b"\n{c}, <d: \\',
        "deep": {"list": [1.5, True, "x", {}], "none": []},
        "on": False,
        "pin": -4,
    }
    calls = [{**called("set_led", **arguments), "id": "a"}, {**called("read_heat"), "id": "b"}]
    talk = [TALK[0], {"role": "assistant", "content": "", "tool_calls": calls}]
    talk += [{"role": "tool", "content": "done", "tool_call_id": each["id"]} for each in calls]
    template = ChatTemplate(FUNCTION_GEMMA_TEMPLATE, {})
    text = template.render(talk, tools=[TOOL])
    answer = text[text.index("<start_function_call>") : text.index("<start_function_response>")]
    assert answer == FUNCTION_GEMMA.calls(calls)
    found = read_calls(answer, FUNCTION_GEMMA, cut=False)[1]
    assert [json.loads(each["function"]["arguments"]) for each in found] == [arguments, {}]
    # The template needs the names of functions, which clients give by ids alone.
    assert "response:set_led{value:<escape>done<escape>}" in text
    assert "response:read_heat{" in text


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{city:<|"|>San Francisco<|"|>}', {"city": "San Francisco"}),
        ("{}", {}),
        ("{arg1:-7}", {"arg1": -7}),
        ("{orig:1.5e10}", {"orig": 1.5e10}),
        ("{enabled:false}", {"enabled": False}),
        ("{value:null}", {"value": None}),
        ('{todos:[<|"|>buy milk<|"|>,<|"|>walk dog<|"|>]}', {"todos": ["buy milk", "walk dog"]}),
        ('{config:{theme:<|"|>dark<|"|>,count:3}}', {"config": {"theme": "dark", "count": 3}}),
        ("{todos:[]}", {"todos": []}),
    ],
)
def test_gemmas_arguments_are_read_as_llama_cpp_reads_them(arguments: str, value: Any) -> None:
    text = f"Hello!<|tool_call>call:f{arguments}<tool_call|>"
    content, (found,) = read_calls(text, GEMMA4, cut=False)
    assert (content, json.loads(found["function"]["arguments"])) == ("Hello!", value)


@pytest.mark.parametrize(
    ("markup", "text", "calls"),
    [
        # Expected strings of llama.cpp's own parsers (tests/test-chat.cpp).
        (
            MISTRAL,
            '[TOOL_CALLS]special_function[ARGS]{"arg1": 1}'
            '[TOOL_CALLS]special_function_with_opt[ARGS]{"arg1": 1, "arg2": 2}',
            [("special_function", 1), ("special_function_with_opt", 1)],
        ),
        (
            MISTRAL_IDS,
            '[TOOL_CALLS]special_function[CALL_ID]000000001[ARGS]{"arg1": 1}'
            '[TOOL_CALLS]special_function_with_opt[CALL_ID]000000002[ARGS]{"arg1": 1, "arg2": 2}',
            [("special_function", 1), ("special_function_with_opt", 1)],
        ),
        (
            MISTRAL_LIST,
            '[TOOL_CALLS][{"name": "special_function", "arguments": {"arg1": 1}, '
            '"id": "123456789"}]',
            [("special_function", 1)],
        ),
    ],
)
def test_calls_are_read_as_llama_cpp_reads_them(
    markup: Any, text: str, calls: list[tuple[str, int]]
) -> None:
    for size in (1, 5, len(text)):
        reader = Reader(markup)
        parts = [text[at : at + size] for at in range(0, len(text), size)]
        pieces = [piece for part in parts for piece in reader.feed(part)]
        assert [*reader.end(cut=False)] == []
        assert [piece for piece in pieces if piece.call is None] == []
        assert [piece.name for piece in pieces if piece.name] == [name for name, _ in calls]
    _, found = read_calls("Hello, world!\nWhat's up?" + text, markup, cut=False)
    assert [json.loads(each["function"]["arguments"])["arg1"] for each in found] == [1] * len(calls)


def test_a_call_that_was_cut_off_keeps_the_part_that_came() -> None:
    content, calls = read_calls(
        '<tool_call>\n{"name": "f", "arguments": {"a": "b', HERMES, cut=True
    )
    assert (content, calls[0]["function"]) == ("", {"name": "f", "arguments": '{"a": "b'})


def told(markup: Any, text: str, *, cut: bool) -> str:
    """Return the text that a client is told of an answer that comes in steps of one character."""
    reader = Reader(markup)
    pieces = [piece for character in text for piece in reader.feed(character)]
    return "".join(each.text for each in pieces + reader.end(cut=cut) if each.call is None)


TWO = HERMES.calls([called("f", a="b")] * 2)
LISTED = MISTRAL_LIST.calls([called("f", a="b")] * 2)
ONE = LLAMA3.calls([called("f", a="b")])


@pytest.mark.parametrize(
    ("markup", "whole", "text"),
    [
        (HERMES, TWO, ""),
        (GENERIC, f"Yes:\n{TWO}", "Yes:"),
        (GENERIC, f"a < b\n\n{TWO}", "a < b"),
        (MISTRAL, MISTRAL.calls([called("f", a="b")] * 2), ""),
        (MISTRAL_IDS, MISTRAL_IDS.calls([called("f", a="b")] * 2), ""),
        (MISTRAL_LIST, f"Yes: {LISTED}", "Yes: "),
        (FUNCTION_GEMMA, FUNCTION_GEMMA.calls([called("f", a="b")] * 2), ""),
        (LLAMA3, ONE, ""),
        (LLAMA3, f"\n {ONE}", ""),
    ],
)
def test_of_a_call_that_was_cut_anywhere_nothing_is_told_as_text(
    markup: Any, whole: str, text: str
) -> None:
    begin = whole.index(markup.trigger)
    for length in range(begin + 1, len(whole) + 1):
        part = whole[:length]
        assert told(markup, part, cut=True) == text
        assert read_calls(part, markup, cut=True)[0] == text


@pytest.mark.parametrize(("markup", "whole"), [(HERMES, TWO), (GENERIC, TWO), (LLAMA3, ONE)])
def test_a_call_whose_trigger_came_is_no_text_even_if_a_stop_word_ended_it(
    markup: Any, whole: str
) -> None:
    for length in range(len(markup.trigger), len(whole) + 1):
        assert told(markup, whole[:length], cut=False) == ""


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (HERMES, "1 < 2 and 2 <"),
        (HERMES, "write <tool_cal"),
        (HERMES, "<tool>"),
        (HERMES, "\n\n"),
        (LLAMA3, '{"nam'),
        (LLAMA3, 'It is: {"name": "f"'),
    ],
)
def test_a_text_that_ends_by_itself_like_the_beginning_of_a_call_is_told(
    markup: Any, text: str
) -> None:
    assert told(markup, text, cut=False) == text
    assert read_calls(text, markup, cut=False) == (text, [])


def test_a_text_that_was_cut_and_holds_no_beginning_of_a_call_is_told_whole() -> None:
    assert told(HERMES, "1 < 2, so\n", cut=True) == "1 < 2, so\n"
    assert told(LLAMA3, 'It is: {"name": "', cut=True) == 'It is: {"name": "'
