"""llm, by its configuration file and its Python interface (its command line uses the same)."""

import json
import os
from pathlib import Path

from steps import FIRST, KEY, MAX_TOKENS, MODEL, SCHEMA, SECOND, URL, report, run

home = Path(os.environ["LLM_USER_PATH"])
home.mkdir(parents=True, exist_ok=True)
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: board\n  model_name: {MODEL}\n  api_base: {URL}\n  supports_schema: true\n"
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


run(turns, structured, streaming)
