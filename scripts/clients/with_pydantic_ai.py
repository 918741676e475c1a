"""pydantic-ai, with NativeOutput, and with its default, which asks for a tool."""

from typing import Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from steps import ASKED, FIRST, KEY, MAX_TOKENS, MODEL, SECOND, URL, report, run

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
settings = {"max_tokens": MAX_TOKENS}


class Report(BaseModel):
    topic: Literal["heat", "power", "storage"]
    urgent: bool
    stars: int = Field(ge=1, le=5)


def turns() -> object:
    agent = Agent(model, model_settings=settings)
    first = agent.run_sync(FIRST)
    return agent.run_sync(SECOND, message_history=first.all_messages()).output


def structured() -> object:
    agent = Agent(model, output_type=NativeOutput(Report), model_settings=settings)
    first = agent.run_sync(FIRST)
    second = agent.run_sync(SECOND, message_history=first.all_messages())
    return report(first.output) and report(second.output)


def streaming() -> object:
    return "".join(
        Agent(model, model_settings=settings).run_stream_sync(FIRST).stream_text(delta=True)
    )


class Switch(BaseModel):
    pin: int = Field(ge=0, le=27)
    on: bool


def tools() -> object:
    # A type as output is asked for by a tool that must be called.
    agent = Agent(model, output_type=Switch, model_settings={"max_tokens": 400})
    first = agent.run_sync(ASKED)
    second = agent.run_sync(SECOND, message_history=first.all_messages())
    return isinstance(first.output, Switch) and isinstance(second.output, Switch)


def streamed_tools() -> object:
    agent = Agent(model, output_type=Switch, model_settings={"max_tokens": 400})
    return isinstance(agent.run_stream_sync(ASKED).get_output(), Switch)


def responses() -> object:
    # Its default refers to items that a provider stores.
    kept = {"openai_store": False, "openai_send_reasoning_ids": False, "max_tokens": 400}
    other = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))
    agent = Agent(other, output_type=Switch, model_settings=kept)
    first = agent.run_sync(ASKED)
    second = agent.run_sync(SECOND, message_history=first.all_messages())
    return isinstance(first.output, Switch) and isinstance(second.output, Switch)


run(turns, structured, streaming, tools, streamed_tools, responses)
