"""Requests are read strictly: each refusal names its field, and no-op values of clients are
accepted.
"""

import json
from typing import Any

import pytest

from device.engine.base import FieldError
from device.errors import DeviceError
from device.serve.api import read_chat, read_completion, read_embeddings

ASKED = [{"role": "user", "content": "hot?"}]


def chat(**fields: Any) -> Any:
    return read_chat(json.dumps({"messages": ASKED, **fields}).encode(), 77)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 3}, "`temperature`: must be a number between 0 and 2, not 3"),
        (
            {"max_tokens": "many"},
            "`max_tokens`: must be a whole number between 1 and 1048576, not 'many'",
        ),
        (
            {"max_completion_tokens": 0},
            "`max_completion_tokens`: must be a whole number between 1 and 1048576, not 0",
        ),
        (
            {"frequency_penalty": 2.5},
            "`frequency_penalty`: must be a number between -2 and 2, not 2.5",
        ),
        ({"n": 5}, "`n`: must be a whole number between 1 and 4"),
        ({"logit_bias": {"a": 1}}, "`logit_bias`: `a` is not the id of a token"),
        ({"logit_bias": {"7": 101}}, "`logit_bias`: `7` must have a number between -100 and 100"),
        (
            {"options": {"num_predict": 5}},
            "`options`: is a field of Ollama's API, here it is: "
            "`temperature`, `max_tokens` and other fields beside `messages`",
        ),
        ({"num_predict": 5}, "`num_predict`: is a field of Ollama's API, here it is: `max_tokens`"),
        ({"prediction": {}}, "`prediction`: is not supported here, leave it out"),
        ({"logprobs": 3}, "`logprobs`: must be true or false"),
        ({"top_logprobs": 3}, "`top_logprobs`: needs `logprobs`"),
        (
            {"logprobs": True, "top_logprobs": 21},
            "`top_logprobs`: must be a whole number between 0 and 20, not 21",
        ),
        (
            {"response_format": {"type": "xml"}},
            "`response_format`: `type` must be `text`, `json_object` or `json_schema`",
        ),
        (
            {"response_format": {"type": ["text"]}},
            "`response_format`: `type` must be `text`, `json_object` or `json_schema`",
        ),
        (
            {"response_format": {"type": "text", "schema": {}}},
            "`response_format`: `schema` is not a field of `text`",
        ),
        (
            {"response_format": {"type": "json_object", "schema": {}, "strict": True}},
            "`response_format`: `strict` is not a field of `json_object`",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "schema": {},
                    "json_schema": {"schema": {}},
                }
            },
            "`response_format`: needs one schema: `json_schema.schema`, or `schema`",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {}, "regex": "a"},
                }
            },
            "`response_format`: `json_schema.regex` is not a field of a schema's description",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {}, "strict": 1},
                }
            },
            "`response_format`: `json_schema.strict` is of a wrong kind",
        ),
        (
            {"response_format": {"type": "json_schema"}},
            "`response_format`: needs one schema: `json_schema.schema`, or `schema`",
        ),
        (
            {"tools": [{"type": "function"}]},
            "`tools[0]`: must be an object with `type` and `function` alone",
        ),
        ({"n": True}, "`n`: must be a whole number between 1 and 4"),
        ({"echo": 0}, "`echo`: is not supported here, leave it out or at false"),
        ({"grammar": "root ::= x"}, "`grammar`: is not a field of this request"),
        ({"json_schema": {}}, "`json_schema`: is not a field of this request"),
        ({"n_discard": -1}, "`n_discard`: is not a field of this request"),
        ({"prompt": "x"}, "`prompt`: is not a field of this request"),
        ({"stream": "yes"}, "`stream`: must be true or false"),
        (
            {"stream_options": {"usage": 1}},
            "`stream_options`: must be an object with `include_usage` alone",
        ),
        ({"stop": 5}, "`stop`: must be a text or a list of texts"),
        ({"stop": [""]}, "`stop`: at most 8 texts of 1 to 256 characters"),
        ({"messages": []}, "`messages`: must be a list of 1 to 512 messages"),
        ({"messages": None}, "`messages`: must be a list of 1 to 512 messages"),
        ({"messages": [{"role": "user", "content": " \n"}]}, "`messages`: the question is empty"),
        ({"messages": ["hot?"]}, "`messages[0]`: must be an object with `role` and `content`"),
        (
            {"messages": [{"role": "root", "content": "x"}]},
            "`messages[0].role`: must be one of system, developer, user, assistant, tool",
        ),
        ({"messages": [{"role": "user"}]}, "`messages[0].content`: must be a text"),
        (
            {"messages": [{"role": "user", "content": "x", "id": 1}]},
            "`messages[0].id`: is not a field of a message",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "`messages[0].content`: this model reads text parts only",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "`messages[0].content`: `url` must be a text",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url"}]}]},
            "`messages[0].content`: a picture is read in a question alone, whose `role` is `user`",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "`messages[0].content`: a picture is read as an `image_url` part",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "id": 1}]}]},
            "`messages[0].content`: `id` is not a field of a picture",
        ),
        (
            {"messages": [{"role": "user", "content": "\ud800"}]},
            (
                "`messages[0].content`: the text is not valid Unicode: "
                "it holds half of a surrogate pair"
            ),
        ),
    ],
)
def test_a_field_that_cannot_be_used_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        chat(**fields)
    assert caught.value.message == message
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"\xff\xfe{\0}\0", b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(DeviceError) as caught:
        read_chat(body, 77)
    assert (caught.value.code, caught.value.message) == (
        "invalid_json",
        "the body is not valid JSON",
    )


def test_a_body_that_is_no_object_is_refused() -> None:
    with pytest.raises(DeviceError, match="the body is not a JSON object"):
        read_chat(b"[]", 77)


def test_neutral_values_null_and_harmless_fields_pass() -> None:
    asked = chat(
        user="me",
        n=1,
        frequency_penalty=0.0,
        presence_penalty=0,
        logit_bias=None,
        model="any",
        seed=None,
        tools=[],
        store=False,
    )
    assert asked.sampling.seed is None


def test_what_is_not_said_is_the_manifests_or_the_likeliest_token() -> None:
    asked = chat()
    assert (
        asked.sampling.max_tokens,
        asked.sampling.temperature,
        asked.stream,
        asked.include_usage,
    ) == (77, 0.0, False, False)


def test_what_is_said_is_taken() -> None:
    asked = chat(
        max_completion_tokens=5,
        temperature=0.7,
        top_p=0.9,
        seed=3,
        stop="x",
        stream=True,
        stream_options={"include_usage": True},
    )
    assert (
        asked.sampling.max_tokens,
        asked.sampling.temperature,
        asked.sampling.seed,
        asked.sampling.stop,
    ) == (5, 0.7, 3, ("x",))
    assert asked.stream and asked.include_usage


def test_log_probabilities_are_asked_for_as_openai_has_it() -> None:
    asked = (
        chat(logprobs=False, top_logprobs=0),
        chat(logprobs=True),
        chat(logprobs=True, top_logprobs=20),
    )
    assert [question.sampling.top_logprobs for question in asked] == [None, 0, 20]
    prompts = [
        read_completion(json.dumps({"prompt": "hot?", **fields}).encode(), 77)
        for fields in ({}, {"logprobs": 5})
    ]
    assert [question.sampling.top_logprobs for question in prompts] == [None, 5]


def test_a_response_format_becomes_a_grammar() -> None:
    described = {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": True, "schema": {"enum": ["a", "b"]}},
    }
    assert chat(response_format={"type": "text"}).sampling.grammar == ""
    assert chat(response_format={"type": "json_object"}).sampling.grammar.startswith("root ::= ")
    assert chat(response_format=described).sampling.grammar.startswith(
        'root ::= r0\nr0 ::= "\\"a\\"" | "\\"b\\""\n'
    )


def test_text_parts_are_joined_and_a_developer_speaks_as_the_system() -> None:
    parts = [{"type": "text", "text": "how "}, {"type": "text", "text": "hot?"}]
    asked = chat(
        messages=[
            {"role": "developer", "content": "brief"},
            {"role": "user", "content": parts, "name": "me"},
        ]
    )
    assert asked.messages == (
        {"role": "system", "content": "brief"},
        {"role": "user", "content": "how hot?"},
    )


@pytest.mark.parametrize(
    ("prompt", "read"),
    [("hot?", "hot?"), (["hot?"], "hot?"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ([[7]], (7,))],
)
def test_a_prompt_is_a_text_or_token_ids(prompt: Any, read: Any) -> None:
    asked = read_completion(json.dumps({"prompt": prompt}).encode(), 77)
    assert (asked.prompt, asked.chat) == (read, False)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "`prompt`: the question is empty"),
        (["a", "b"], "`prompt`: holds several prompts, and one is answered at a time"),
        ([[1], [2]], "`prompt`: holds several prompts, and one is answered at a time"),
        (["a", 2], "`prompt`: holds several prompts, and one is answered at a time"),
        ([1, "a"], "`prompt`: must be a text, or a list of token ids"),
        ([[]], "`prompt`: must be a text, or a list of token ids"),
        ([["a"]], "`prompt`: must be a text, or a list of token ids"),
        ([[[1]]], "`prompt`: must be a text, or a list of token ids"),
        ([1.0], "`prompt`: must be a text, or a list of token ids"),
        ([""], "`prompt`: the question is empty"),
        ([True], "`prompt`: must be a text, or a list of token ids"),
        ([], "`prompt`: must be a text, or a list of token ids"),
        (None, "`prompt`: must be a text, or a list of token ids"),
    ],
)
def test_a_prompt_that_is_none_is_refused(prompt: Any, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        read_completion(json.dumps({"prompt": prompt}).encode(), 77)
    assert caught.value.message == message


def test_of_two_bounds_of_an_answer_both_hold() -> None:
    for asked in (
        {"max_tokens": 3, "max_completion_tokens": 9},
        {"max_tokens": 9, "max_completion_tokens": 3},
    ):
        assert chat(**asked).sampling.max_tokens == 3


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object", "schema": {"enum": ["yes"]}},
        {"type": "json_schema", "schema": {"enum": ["yes"]}},
        {"type": "json_schema", "json_schema": {"schema": {"enum": ["yes"]}, "strict": None}},
        {"type": "json_schema", "schema": None, "json_schema": {"schema": {"enum": ["yes"]}}},
    ],
)
def test_a_schema_is_held_to_wherever_a_client_puts_it(form: dict[str, Any]) -> None:
    assert chat(response_format=form).sampling.grammar.startswith('root ::= "\\"yes\\""\n')


def test_a_field_that_is_null_says_nothing_in_every_object() -> None:
    asked = chat(
        reasoning_effort=None,
        anything=None,
        stream_options={"include_usage": True, "new": None},
        response_format={"type": "text", "new": None},
        messages=[{"role": "user", "content": "hot?", "cache_control": None, "annotations": []}],
    )
    assert asked.messages == tuple(ASKED) and asked.include_usage


def embeddings(**fields: Any) -> Any:
    return read_embeddings(json.dumps(fields).encode())


def test_embeddings_take_texts_and_lists_of_ids_side_by_side() -> None:
    assert embeddings(input="a", dimensions=None).inputs == ("a",)
    assert embeddings(input=[1, 2]).inputs == ((1, 2),)
    assert embeddings(input=["a", [1, 2]]).inputs == ("a", (1, 2))


@pytest.mark.parametrize(
    "value", [["a", 1], [["a"]], [[[1]]], [1, [2]], [True], {}, 3, [[]], [None]]
)
def test_embeddings_of_anything_else_are_refused_by_their_field(value: Any) -> None:
    with pytest.raises(FieldError) as caught:
        embeddings(input=value)
    assert caught.value.field == "input"
