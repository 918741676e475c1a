"""curl, and nothing else: the replies are sent back as they came."""

import json
import subprocess
from typing import Any

from steps import FIRST, KEY, MAX_TOKENS, MODEL, SCHEMA, SECOND, URL, report, run

Message = dict[str, Any]


def curl(path: str, **fields: object) -> str:
    command = ["curl", "-sSN", "--fail-with-body", f"{URL}{path}", "-d", "@-"]
    headers = ["-H", "content-type: application/json", "-H", f"authorization: Bearer {KEY}"]
    body = json.dumps({"model": MODEL, **fields})
    return subprocess.run(
        [*command, *headers], input=body, capture_output=True, text=True, check=True
    ).stdout


def chat(messages: list[Message], **more: object) -> Message:
    reply = curl("/chat/completions", messages=messages, max_tokens=MAX_TOKENS, **more)
    message: Message = json.loads(reply)["choices"][0]["message"]
    return message


def turns() -> object:
    asked = [{"role": "user", "content": FIRST}]
    asked += [chat(asked), {"role": "user", "content": SECOND}]
    return chat(asked)["content"]


def structured() -> object:
    form = {"type": "json_object", "schema": SCHEMA}
    reply = chat([{"role": "user", "content": FIRST}], response_format=form)
    return report(json.loads(reply["content"]))


def streaming() -> object:
    asked = [{"role": "user", "content": FIRST}]
    text = curl("/chat/completions", messages=asked, max_tokens=MAX_TOKENS, stream=True)
    return text.startswith("data: {") and text.endswith("data: [DONE]\n\n")


def embeddings() -> object:
    return json.loads(curl("/embeddings", input=[FIRST, SECOND]))["data"][0]["embedding"]


run(turns, structured, streaming, embeddings)
