"""ShareGPT: {"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}]}."""

from collections.abc import Mapping
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Entry, Place
from toolchain.ingest.forms.messages import conversation
from toolchain.ingest.forms.ours import others, system_message

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


def read_sharegpt(place: Place, row: Mapping[str, Any]) -> Entry:
    """Return a conversation."""
    turns = row["conversations"]
    system = system_message(place, row)
    if not isinstance(turns, list) or not turns:
        raise ArtifactError(f"{place}: `conversations` must be a list of turns")
    messages = conversation(place, [_turn(place, turn) for turn in turns], "conversations")
    known = ("conversations", *(("system",) if system else ()))
    return Entry(place=place, phrasings=(system + messages,), unknown_keys=others(row, *known))


def _turn(place: Place, turn: Any) -> Any:
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
    weight = {"weight": turn["weight"]} if "weight" in turn else {}
    return {"role": role, "content": turn.get("value"), **weight}
