"""llm, by its configuration file and its Python interface (its command line uses the same)."""

import json
import os
from pathlib import Path

from steps import ASKED, FIRST, KEY, MAX_TOKENS, MODEL, SCHEMA, SECOND, URL, report, run

home = Path(os.environ["LLM_USER_PATH"])
home.mkdir(parents=True, exist_ok=True)
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: board\n  model_name: {MODEL}\n  api_base: {URL}\n"
    "  supports_schema: true\n  supports_tools: true\n"
)

import llm  # noqa: E402 (reads its configuration when it is imported)


def model() -> "llm.Model":
    found = llm.get_model("board")
    found.key = KEY
    return found


def turns() -> object:
    conversation = model().conversation()
    conversation.prompt(FIRST, max_tokens=MAX_TOKENS, stream=False).text()
    return conversation.prompt(SECOND, max_tokens=MAX_TOKENS, stream=False).text()


def structured() -> object:
    reply = model().prompt(FIRST, schema=SCHEMA, max_tokens=MAX_TOKENS, stream=False)
    return report(json.loads(reply.text()))


def streaming() -> object:
    return "".join(model().prompt(FIRST, max_tokens=MAX_TOKENS))


def set_led(pin: int, on: bool) -> str:
    """Switch an LED on or off."""
    return f"pin {pin} is {'on' if on else 'off'}"


def tools() -> object:
    chain = model().chain(ASKED, tools=[set_led], options={"max_tokens": 400}, stream=False)
    return chain.text() or "an empty answer is one"


def streamed_tools() -> object:
    return list(model().chain(ASKED, tools=[set_led], options={"max_tokens": 400})) or "empty"


run(turns, structured, streaming, tools, streamed_tools)
