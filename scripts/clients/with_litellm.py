"""litellm."""

import json
from typing import Any

import litellm
from steps import (
    ASKED,
    FIRST,
    KEY,
    MAX_TOKENS,
    MODEL,
    SCHEMA,
    SECOND,
    TOOL,
    URL,
    report,
    run,
    switched,
)

asked = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY}


def ask(messages: list[Any], **more: object) -> Any:
    fields = {"max_tokens": MAX_TOKENS, **asked, **more}
    return litellm.completion(messages=messages, **fields)


def turns() -> object:
    messages = [{"role": "user", "content": FIRST}]
    messages += [ask(messages).choices[0].message.model_dump(), {"role": "user", "content": SECOND}]
    return ask(messages).choices[0].message.content


def structured() -> object:
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA, "strict": True}}
    reply = ask([{"role": "user", "content": FIRST}], response_format=form)
    return report(json.loads(reply.choices[0].message.content))


def streaming() -> object:
    parts = list(ask([{"role": "user", "content": FIRST}], stream=True))
    whole = litellm.stream_chunk_builder(parts).choices[0].message
    again = [{"role": "user", "content": FIRST}, whole, {"role": "user", "content": SECOND}]
    return whole.content and ask(again).choices[0].message.content


def embeddings() -> object:
    return litellm.embedding(input=[FIRST, SECOND], **asked).data[0]["embedding"]


def tools() -> object:
    asked_first = [{"role": "user", "content": ASKED}]
    message = (
        ask(asked_first, tools=[TOOL], tool_choice="required", max_tokens=400).choices[0].message
    )
    results = [
        {"role": "tool", "tool_call_id": each.id, "content": "done"} for each in message.tool_calls
    ]
    again = ask([*asked_first, message.model_dump(), *results], tools=[TOOL])
    right = [switched(e.function.name, e.function.arguments) for e in message.tool_calls]
    return all(right) and again.choices[0].finish_reason


def streamed_tools() -> object:
    form = {"tools": [TOOL], "tool_choice": "required", "stream": True, "max_tokens": 400}
    parts = list(ask([{"role": "user", "content": ASKED}], **form))
    message = litellm.stream_chunk_builder(parts).choices[0].message
    return all(switched(e.function.name, e.function.arguments) for e in message.tool_calls)


def responses() -> object:
    reply = litellm.responses(input=FIRST, max_output_tokens=MAX_TOKENS, **asked)
    return reply.output[0].content[0].text


run(turns, structured, streaming, embeddings, tools, streamed_tools, responses)
