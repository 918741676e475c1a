"""instructor, with its mode JSON_SCHEMA, and with its default, which asks for a tool."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel, Field
from steps import FIRST, KEY, MAX_TOKENS, MODEL, SECOND, URL, report, run

client = instructor.from_openai(
    openai.OpenAI(base_url=URL, api_key=KEY), mode=instructor.Mode.JSON_SCHEMA
)


class Report(BaseModel):
    topic: Literal["heat", "power", "storage"]
    urgent: bool
    stars: int = Field(ge=1, le=5)


def turns() -> object:
    messages = [{"role": "user", "content": FIRST}]
    for _ in range(2):
        found, raw = client.chat.completions.create_with_completion(
            model=MODEL, messages=messages, response_model=Report, max_tokens=MAX_TOKENS
        )
        messages += [raw.choices[0].message.model_dump(), {"role": "user", "content": SECOND}]
    return report(found)


def structured() -> object:
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": FIRST}],
        response_model=Report,
        max_tokens=MAX_TOKENS,
    )
    return report(found)


def streaming() -> object:
    parts = client.chat.completions.create_partial(
        model=MODEL,
        messages=[{"role": "user", "content": FIRST}],
        response_model=Report,
        max_tokens=MAX_TOKENS,
    )
    return report(list(parts)[-1])


def tools() -> object:
    by_tool = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY))
    found = by_tool.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": FIRST}],
        response_model=Report,
        max_tokens=400,
    )
    return report(found)


run(turns, structured, streaming, tools)
