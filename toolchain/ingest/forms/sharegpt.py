"""ShareGPT: {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}.

With `tools` in the row, or in the recipe, a turn of `function_call` holds calls as JSON, and one of
`observation` what a tool returned, as LLaMA-Factory writes them.
"""

from collections.abc import Mapping
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.calling import read_tools
from toolchain.ingest.entries import Entry, Place, Tools
from toolchain.ingest.forms.messages import conversation
from toolchain.ingest.forms.ours import others, system_message
from toolchain.texts import Unreadable, parse_json

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
"""Name of a speaker → role, as exporters and trainers of this form spell them."""
CALLS = "function_call"
"""Speaker of a turn that calls tools."""


def read_sharegpt(place: Place, row: Mapping[str, Any]) -> Entry:
    """Return a conversation."""
    turns = row["conversations"]
    system = system_message(place, row)
    tools = _tools(place, row.get("tools"))
    if not isinstance(turns, list) or not turns:
        raise ArtifactError(f"{place}: `conversations` must be a list of turns")
    given = [_turn(place, turn, tools) for turn in turns]
    messages = conversation(place, given, "conversations", tools)
    known = ("conversations", "tools", *(("system",) if system else ()))
    return Entry(
        place=place,
        phrasings=(system + messages,),
        unknown_keys=others(row, *known),
        tools=tools,
    )


def _tools(place: Place, value: Any) -> Tools:
    """Return the tools of a row, which may be written without the frame that OpenAI has."""
    if isinstance(value, str) and value.strip():
        value = _json(place, value, "`tools`")
    if isinstance(value, list):
        value = [
            {"type": "function", "function": each}
            if isinstance(each, dict) and "name" in each
            else each
            for each in value
        ]
    return read_tools(place, value)


def _json(place: Place, text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except Unreadable as error:
        raise ArtifactError(f"{place}: {what} must be JSON: {error.problem}") from error


def _calls(place: Place, text: Any) -> Mapping[str, Any]:
    """Return the calls of a turn as a message: one {"name", "arguments"}, or a list of them."""
    value = _json(place, text, f"`{CALLS}`") if isinstance(text, str) else text
    calls = value if isinstance(value, list) else [value]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": each} for each in calls],
    }


def _turn(place: Place, turn: Any, tools: Tools) -> Any:
    """Return a turn as a message; one that already is a message stays."""
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str):
        if isinstance(turn, dict) and "role" in turn:
            return turn
        raise ArtifactError(f'{place}: a turn must be {{"from", "value"}} with text')
    role = SPEAKERS.get(turn["from"].casefold())
    if role is None:
        known = ", ".join(name for name, each in SPEAKERS.items() if each != "tool")
        raise ArtifactError(
            f"{place}: speaker `{turn['from'][:60]}` is not known", hint=f"known: {known}"
        )
    if role != "tool" and not isinstance(turn.get("value"), str):
        raise ArtifactError(f'{place}: a turn must be {{"from", "value"}} with text')
    if tools and turn["from"].casefold() == CALLS:
        return _calls(place, turn.get("value"))
    weight = {"weight": turn["weight"]} if "weight" in turn else {}
    return {"role": role, "content": turn.get("value"), **weight}
