"""openai for Python."""

from typing import Any, Literal

import openai
from pydantic import BaseModel, Field
from steps import (
    ASKED,
    FIRST,
    KEY,
    MAX_TOKENS,
    MODEL,
    SECOND,
    TOOL,
    URL,
    report,
    run,
    switched,
)

client = openai.OpenAI(base_url=URL, api_key=KEY)


class Report(BaseModel):
    topic: Literal["heat", "power", "storage"]
    urgent: bool
    stars: int = Field(ge=1, le=5)


def turns() -> object:
    messages: list[Any] = [{"role": "user", "content": FIRST}]
    for question in (SECOND, None):
        reply = client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=MAX_TOKENS
        )
        messages += [reply.choices[0].message, {"role": "user", "content": question}]
    return reply.choices[0].message.content


def structured() -> object:
    asked: list[Any] = [{"role": "user", "content": FIRST}]
    for _ in range(2):
        reply = client.chat.completions.parse(
            model=MODEL, messages=asked, response_format=Report, max_tokens=MAX_TOKENS
        )
        asked += [reply.choices[0].message, {"role": "user", "content": SECOND}]
    return report(reply.choices[0].message.parsed)


def streaming() -> object:
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": FIRST}], max_tokens=MAX_TOKENS
    ) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion().choices[0].message
    asked: list[Any] = [{"role": "user", "content": FIRST}, final]
    asked += [{"role": "user", "content": SECOND}]
    again = client.chat.completions.create(model=MODEL, messages=asked, max_tokens=MAX_TOKENS)
    return "".join(texts) == final.content and again.choices[0].message.content


def embeddings() -> object:
    found = client.embeddings.create(model=MODEL, input=[FIRST, SECOND]).data
    return len(found) == 2 and found[0].embedding


def tools() -> object:
    asked: list[Any] = [{"role": "user", "content": ASKED}]
    form: dict[str, Any] = {"model": MODEL, "tools": [TOOL], "max_tokens": 400}
    made = client.chat.completions.create(messages=asked, tool_choice="required", **form)
    message = made.choices[0].message
    calls = message.tool_calls or []
    results = [{"role": "tool", "tool_call_id": each.id, "content": "done"} for each in calls]
    again = client.chat.completions.create(messages=[*asked, message, *results], **form)
    right = [switched(each.function.name, each.function.arguments) for each in calls]
    return right and all(right) and again.choices[0].finish_reason


def streamed_tools() -> object:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": ASKED}],
        tools=[{**TOOL, "function": {**TOOL["function"], "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "set_led"}},
        max_tokens=400,
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls or []
    return calls and all(switched(e.function.name, e.function.arguments) for e in calls)


def responses() -> object:
    form: dict[str, Any] = {"model": MODEL, "max_output_tokens": 400}
    parsed = client.responses.parse(input=FIRST, text_format=Report, **form).output_parsed
    function = {"type": "function", **TOOL["function"], "strict": True}
    called = {"tools": [function], "tool_choice": "required", "parallel_tool_calls": False}
    with client.responses.stream(input=ASKED, **called, **form) as stream:
        texts = [
            event.delta for event in stream if event.type.endswith("function_call_arguments.delta")
        ]
        final = stream.get_final_response()
    item = final.output[0]
    result = {"type": "function_call_output", "call_id": item.call_id, "output": "done"}
    talk = [{"role": "user", "content": ASKED}, item, result]
    again = client.responses.create(input=talk, tools=[function], **form)
    return report(parsed) and switched(item.name, "".join(texts)) and again.id


run(turns, structured, streaming, embeddings, tools, streamed_tools, responses)
