"""openai-agents, OpenAI's Agents SDK: its models speak the Responses API.

It takes an answer that was cut off at its length for an error, so lengths are generous here.
"""

import asyncio
from typing import Annotated, Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from steps import ASKED, FIRST, KEY, MODEL, SECOND, URL, report, run, switched

set_tracing_disabled(True)
ROOM = 400
calls: list[tuple[int, bool]] = []


class Report(BaseModel):
    topic: Literal["heat", "power", "storage"]
    urgent: bool
    stars: int = Field(ge=1, le=5)


@function_tool
def set_led(pin: Annotated[int, Field(ge=0, le=27)], on: bool) -> str:
    """Switch an LED on or off."""
    calls.append((pin, on))
    return "done"


def agent(**settings: Any) -> Agent[Any]:
    """Return an agent with a connection of its own: each step has a loop of its own."""
    client = AsyncOpenAI(base_url=URL, api_key=KEY)
    tools = [set_led] if settings else []
    return Agent(
        name="board",
        model=OpenAIResponsesModel(model=MODEL, openai_client=client),
        model_settings=ModelSettings(max_tokens=ROOM, **settings),
        tools=tools,
        tool_use_behavior="stop_on_first_tool",
    )


def turns() -> object:
    first = Runner.run_sync(agent(), FIRST)
    asked = [*first.to_input_list(), {"role": "user", "content": SECOND}]
    return Runner.run_sync(agent(), asked).final_output


def structured() -> object:
    return report(Runner.run_sync(agent().clone(output_type=Report), FIRST).final_output)


async def _streamed(asked: Agent[Any], question: str) -> tuple[str, object]:
    result = Runner.run_streamed(asked, question)
    texts = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return "".join(texts), result.final_output


def streaming() -> object:
    text, final = asyncio.run(_streamed(agent(), FIRST))
    return text and text == final


def _right() -> bool:
    """Return whether a call came, and every one fits the tool."""
    return bool(calls) and all(switched("set_led", {"pin": pin, "on": on}) for pin, on in calls)


def tools() -> object:
    calls.clear()
    final = Runner.run_sync(
        agent(tool_choice="required", parallel_tool_calls=False), ASKED
    ).final_output
    return final and _right()


def streamed_tools() -> object:
    calls.clear()
    _, final = asyncio.run(
        _streamed(agent(tool_choice="set_led", parallel_tool_calls=False), ASKED)
    )
    return final and _right()


def responses() -> object:
    # All of the steps above are of this API.
    return True


run(turns, structured, streaming, tools, streamed_tools, responses)
