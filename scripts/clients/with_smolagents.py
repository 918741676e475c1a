"""smolagents, with its agent that calls tools."""

from smolagents import OpenAIServerModel, ToolCallingAgent, tool
from steps import ASKED, FIRST, KEY, MAX_TOKENS, MODEL, SECOND, URL, run

calls: list[tuple[int, bool]] = []
model = OpenAIServerModel(model_id=MODEL, api_base=URL, api_key=KEY, max_tokens=400)


def set_led(pin: int, on: bool) -> str:
    """Switch an LED on or off.

    Args:
        pin: number of the pin
        on: whether it shines
    """
    calls.append((pin, on))
    return f"pin {pin} is {'on' if on else 'off'}"


led = tool(set_led)


def turns() -> object:
    asked = [{"role": "user", "content": FIRST}]
    first = model.generate(asked, max_tokens=MAX_TOKENS)
    talk = [
        *asked,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": SECOND},
    ]
    return model.generate(talk, max_tokens=MAX_TOKENS).content


def tools() -> object:
    calls.clear()
    ToolCallingAgent(tools=[led], model=model, max_steps=1).run(ASKED)
    return calls


def streamed_tools() -> object:
    calls.clear()
    agent = ToolCallingAgent(tools=[led], model=model, max_steps=1, stream_outputs=True)
    list(agent.run(ASKED, stream=True))
    return calls


run(turns, tools, streamed_tools)
