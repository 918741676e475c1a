"""Open WebUI's requests, written as its source writes them (release 0.12.4), not its own program.

routers/openai.py (generate_chat_completion, embeddings), routers/ollama.py, routers/tasks.py,
utils/payload.py, utils/middleware.py and retrieval/utils.py say which fields a request has.
"""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

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

ROOT = URL.removesuffix("/").removesuffix("/v1")
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
NAMED = f"{MODEL}:latest"
SETTINGS: dict[str, Any] = {
    # All of a model's "advanced params" at once, as its page for settings offers them.
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "seed": 7,
    "stop": ["\n\n\n"],
    "frequency_penalty": 0.1,
    "presence_penalty": 0.0,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "mirostat": 0,
    "mirostat_eta": 0.1,
    "mirostat_tau": 5.0,
    "tfs_z": 1,
    "num_ctx": 2048,
    "num_batch": 512,
    "num_keep": 24,
    "num_thread": 2,
    "num_gpu": 0,
    "use_mmap": True,
    "use_mlock": False,
}


def sent(path: str, body: "dict[str, Any] | None" = None) -> Any:
    """Send a request; return its JSON, or its lines if it is a stream."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(path, data, HEADERS)  # noqa: S310
    with urllib.request.urlopen(asked, timeout=600) as answer:  # noqa: S310
        if (
            "json" in answer.headers["Content-Type"]
            and "ndjson" not in answer.headers["Content-Type"]
        ):
            return json.load(answer)
        return answer.read().decode().splitlines()


def events(lines: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the deltas of a stream of /chat/completions."""
    for line in lines:
        if line.startswith("data: {"):
            yield from (each["delta"] for each in json.loads(line[6:])["choices"])


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat(messages: list[dict[str, Any]], **more: Any) -> Any:
    body = {"stream": False, "model": MODEL, "messages": messages, "max_tokens": MAX_TOKENS, **more}
    return sent(f"{URL}/chat/completions", body)


def turns() -> object:
    models = sent(f"{URL}/models")["data"]
    first = chat([user(FIRST)], **SETTINGS)["choices"][0]["message"]
    talk = [{"role": "system", "content": "Be short."}, user(FIRST), first, user(SECOND)]
    # A model of a "pipeline" says who asks; a title is one of the tasks beside a conversation.
    person = {"name": "a", "id": "1", "email": "a@b", "role": "admin"}
    second = chat(talk, user=person, metadata={"task": "title_generation", "chat_id": "1"})
    return models and second["choices"][0]["message"]["content"]


def structured() -> object:
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA}}
    reply = chat([user(FIRST)], response_format=form)
    return report(json.loads(reply["choices"][0]["message"]["content"]))


def streaming() -> object:
    parts = [{"type": "text", "text": FIRST}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    lines = chat([{"role": "user", "content": parts}], **options)
    text = "".join(delta.get("content") or "" for delta in events(lines))
    return text and lines[-2] == "data: [DONE]"


def embeddings() -> object:
    found = sent(f"{URL}/embeddings", {"input": [FIRST, SECOND], "model": MODEL})["data"]
    body = {"input": [FIRST, SECOND], "model": NAMED, "truncate": True}
    return len(found) == len(sent(f"{ROOT}/api/embed", body)["embeddings"]) == 2


def tools() -> object:
    form: dict[str, Any] = {"tools": [TOOL], "max_tokens": 400}
    made = chat([user(ASKED)], tool_choice="required", **form)["choices"][0]["message"]
    results = [
        {
            "role": "tool",
            "tool_call_id": each["id"],
            "content": [{"type": "input_text", "text": "ok"}],
        }
        for each in made["tool_calls"]
    ]
    again = chat([user(ASKED), made, *results], **form)["choices"][0]
    calls = [each["function"] for each in made["tool_calls"]]
    return again and all(switched(each["name"], each["arguments"]) for each in calls)


def streamed_tools() -> object:
    form = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 400, "stream": True}
    texts: dict[int, str] = {}
    for delta in events(chat([user(ASKED)], **form)):
        for part in delta.get("tool_calls") or ():
            texts[part["index"]] = texts.get(part["index"], "") + part["function"]["arguments"]
    return texts and all(switched("set_led", text) for text in texts.values())


def responses() -> object:
    """Send what a connection of the type `responses` sends (convert_to_responses_payload)."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": FIRST}]}
    body = {"model": MODEL, "stream": True, "input": [item], "max_output_tokens": MAX_TOKENS}
    lines = sent(f"{URL}/responses", {**body, "instructions": "Be short.", "temperature": 0.8})
    return any('"type": "response.completed"' in line or "incomplete" in line for line in lines)


def ollama() -> object:
    """Send what a connection to Ollama sends."""
    version = sent(f"{ROOT}/api/version")["version"]
    listed = sent(f"{ROOT}/api/tags")["models"], sent(f"{ROOT}/api/ps")["models"]
    sent(f"{ROOT}/api/show", {"model": NAMED})
    settings = {key: value for key, value in SETTINGS.items() if key != "tfs_z"}
    called = {
        "index": 0,
        "id": "1",
        "function": {"name": "set_led", "arguments": {"pin": 4, "on": True}},
    }
    talk = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": "done", "tool_call_id": "1"},
        {"role": "user", "content": FIRST},
    ]
    body = {"model": NAMED, "messages": talk, "stream": True, "tools": [TOOL], "keep_alive": "5m"}
    lines = sent(f"{ROOT}/api/chat", {**body, "options": {**settings, "num_predict": MAX_TOKENS}})
    return version and all(listed) and json.loads(lines[-1])["done"]


run(turns, structured, streaming, embeddings, tools, streamed_tools, responses, ollama)
