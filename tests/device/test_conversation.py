"""A reply is accepted as history whatever a client's library made of it.

A user's message is read strictly.
"""

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from device.engine.base import FieldError
from device.serve.conversation import read_messages

ASKED, AGAIN = {"role": "user", "content": "hot?"}, {"role": "user", "content": "and now?"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def history(reply: dict[str, Any]) -> str:
    """Return what is read of a reply in the middle of a conversation."""
    return str(read_messages([ASKED, {"role": "assistant", **reply}, AGAIN])[1]["content"])


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ({"content": None}, ""),
        ({"content": ""}, ""),
        ({"content": []}, ""),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": "a", "refusal": None, "annotations": [], "audio": None}, "a"),
        ({"content": "a", "function_call": None, "tool_calls": None}, "a"),
        ({"content": "a", "reasoning_content": "hm", "reasoning": "hm", "parsed": {"b": 1}}, "a"),
        ({"content": "a", "provider_specific_fields": {"refusal": None}, "images": []}, "a"),
        ({"content": None, "tool_calls": [CALL]}, ""),
        ({"tool_calls": [CALL]}, ""),
        ({"content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]}, "ab"),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]}, "a"),
        ({"content": "a", "name": "demitasse", "id": "chatcmpl-1", "logprobs": None}, "a"),
    ],
)
def test_a_reply_is_accepted_as_history_with_all_that_libraries_add(
    reply: dict[str, Any], read: str
) -> None:
    assert history(reply) == read


def test_the_openai_librarys_own_message_is_accepted_in_each_of_its_forms() -> None:
    message = ChatCompletionMessage(role="assistant", content="a", refusal=None)
    for form in (message.model_dump(), message.model_dump(exclude_unset=True), message.to_dict()):
        assert history({str(name): value for name, value in form.items()}) == "a"
    assert openai.__version__


def test_the_result_of_a_tool_is_read_with_the_call_that_it_belongs_to() -> None:
    result = {"role": "tool", "tool_call_id": "c", "content": "42", "name": "f"}
    replied = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert [message["content"] for message in read_messages([ASKED, replied, result, AGAIN])] == [
        "hot?",
        "",
        "42",
        "and now?",
    ]


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "assistant"}, "`messages[0].content`: must be a text"),
        ({"role": "assistant", "content": 3}, "`messages[0].content`: must be a text"),
        ({"role": "user", "content": None}, "`messages[0].content`: must be a text"),
        (
            {"role": "user", "content": [None]},
            "`messages[0].content`: this model reads text parts only",
        ),
        (
            {"role": "user", "content": [{"type": "thinking", "thinking": "x"}]},
            "`messages[0].content`: this model reads text parts only",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": None}]},
            "`messages[0].content`: must be a text",
        ),
        (
            {"role": "user", "content": "x", "parsed": {"a": 1}},
            "`messages[0].parsed`: is not a field of a message",
        ),
        (
            {"role": ["user"], "content": "x"},
            "`messages[0].role`: must be one of system, developer, user, assistant, tool",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(message: dict[str, Any], problem: str) -> None:
    with pytest.raises(FieldError) as caught:
        read_messages([message, AGAIN])
    assert caught.value.message == problem
