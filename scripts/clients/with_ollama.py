"""ollama for Python; its service is at the address without `/v1`.

Its API has no choice of tools: a model that was not tuned seldom calls, so an answer in words is no
problem. This library drops `minimum` and `maximum` of a tool: a pin may be any integer.
"""

from typing import Any, Literal

import ollama
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

client = ollama.Client(
    host=URL.removesuffix("/").removesuffix("/v1"), headers={"Authorization": f"Bearer {KEY}"}
)
OPTIONS = {"num_predict": MAX_TOKENS}


def called(call: ollama.Message.ToolCall) -> bool:
    """Return whether a call is one of the tool, with a pin of any number."""
    arguments = dict(call.function.arguments)
    return isinstance(arguments["pin"], int) and switched(
        call.function.name, {**arguments, "pin": 4}
    )


class Report(BaseModel):
    topic: Literal["heat", "power", "storage"]
    urgent: bool
    stars: int = Field(ge=1, le=5)


def turns() -> object:
    known = [each.model for each in client.list().models]
    assert known == [each.model for each in client.ps().models]
    assert "completion" in (client.show(str(known[0])).capabilities or [])

    messages: list[Any] = [{"role": "user", "content": FIRST}]
    first = client.chat(MODEL, messages, options=OPTIONS)
    messages += [first.message, {"role": "user", "content": SECOND}]
    again = client.chat(f"{MODEL}:latest", messages, options=OPTIONS)
    return again.message.content and client.generate(MODEL, FIRST, options=OPTIONS).response


def structured() -> object:
    asked = [{"role": "user", "content": FIRST}]
    form = Report.model_json_schema()
    reply = client.chat(MODEL, asked, format=form, options={"num_predict": 400})
    return report(Report.model_validate_json(reply.message.content or ""))


def streaming() -> object:
    asked = [{"role": "user", "content": FIRST}]
    parts = list(client.chat(MODEL, asked, stream=True, options=OPTIONS))
    text = "".join(part.message.content or "" for part in parts)
    whole = client.chat(MODEL, asked, options=OPTIONS)
    return text == whole.message.content and parts[-1].done and parts[-1].eval_count


def embeddings() -> object:
    found = client.embed(MODEL, [FIRST, SECOND]).embeddings
    return len(found) == 2 and found[0]


def tools() -> object:
    asked: list[Any] = [{"role": "user", "content": ASKED}]
    form: dict[str, Any] = {"tools": [TOOL], "options": {"num_predict": 400}}
    message = client.chat(MODEL, asked, **form).message
    calls = message.tool_calls or []
    results = [
        {"role": "tool", "tool_name": each.function.name, "content": "done"} for each in calls
    ]
    again = client.chat(MODEL, [*asked, message, *results, *asked], **form)
    return all(map(called, calls)) and again.done_reason


def streamed_tools() -> object:
    asked = [{"role": "user", "content": ASKED}]
    options = {"num_predict": 400}
    parts = list(client.chat(MODEL, asked, tools=[TOOL], stream=True, options=options))
    calls = [call for part in parts for call in part.message.tool_calls or []]
    return parts[-1].done and all(map(called, calls))


run(turns, structured, streaming, embeddings, tools, streamed_tools)
