"""OpenAI's form: {"messages": [{"role", "content"}, …]}, with content parts, `name` and `weight`.

Calls of tools are learned where the row or the recipe names the tools. Where it does not they are
refused by name: a conversation without them would teach answers that come from nowhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.harvested import HARVESTED
from toolchain.ingest.calling import check_results, read_calls, read_tools
from toolchain.ingest.entries import ROLES, Entry, Messages, Place, Tools
from toolchain.ingest.forms.ours import others

SAME_ROLES = {"developer": "system"}
"""Newer name of a role → the name that templates know."""
TOOL_ROLES = {"tool", "function", "ipython"}
TOOL_KEYS = {"tool_calls", "function_call", "tool_call_id"}
_READ_KEYS = {"role", "content", "name", "weight"}
_NO_TOOLS = (
    "calls of tools are learned from `messages` with `tool_calls` where the row has `tools`, "
    "or the recipe: [data] tools"
)
_SETTINGS = ("parallel_tool_calls",)
"""Keys that a row may have beside its tools, and that change nothing that is learned."""
NO_ANSWER = "no answer with weight 1"


def read_messages(place: Place, row: Mapping[str, Any]) -> Entry | str:
    """Return a conversation, or the reason why no answer of it is learned."""
    turns = row["messages"]
    tools = read_tools(place, row.get("tools"))
    messages = conversation(place, turns, tools=tools)
    end = _learned_end(place, turns)
    if not end:
        return NO_ANSWER
    unread = tuple(
        {f"messages.{key}" for turn in turns[:end] for key in turn if key == "name"}
        if not tools
        else ()
    )
    return Entry(
        place=place,
        phrasings=(messages[:end],),
        unknown_keys=(*others(row, "messages", HARVESTED, "tools", *_SETTINGS), *unread),
        tools=tools,
    )


def conversation(place: Place, value: Any, key: str = "messages", tools: Tools = ()) -> Messages:
    """Return a list of messages as ours; raise ArtifactError for what is none."""
    if not isinstance(value, list) or not value:
        raise ArtifactError(f"{place}: `{key}` must be a list of messages")
    messages = tuple(_message(place, each, tools) for each in value)
    check_results(place, messages)
    return messages


def _message(place: Place, message: Any, tools: Tools) -> Mapping[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _not_a_message(place, message)
    if tools and message["role"] == "tool":
        return _result(place, message)
    if tools and message["role"] == "assistant" and message.get("tool_calls"):
        calls = read_calls(place, message["tool_calls"], tools)
        rest = {key: each for key, each in message.items() if key != "tool_calls"}
        rest["content"] = rest.get("content") or ""
        return {**_message(place, rest, tools), "tool_calls": calls}
    _refuse_tools(place, message)
    text = text_of_content(place, message.get("content"))
    given = {key for key, value in message.items() if value not in (None, [], {}, "")}
    if text is None or given - _READ_KEYS:
        raise _not_a_message(place, message)
    return {"role": role_of(place, message["role"]), "content": text.strip()}


def _result(place: Place, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the result of a tool; a tool may have nothing to say."""
    given = message.get("content")
    text = "" if given in (None, []) else text_of_content(place, given)
    if text is None:
        raise ArtifactError(f"{place}: the result of a tool must be text")
    named = {key: message.get(key) for key in ("tool_call_id", "name")}
    for key, each in named.items():
        if each is not None and not isinstance(each, str):
            raise ArtifactError(f"{place}: `{key}` of a result must be text")
    return {
        "role": "tool",
        "content": text,
        **{key: each for key, each in named.items() if each is not None},
    }


def role_of(place: Place, role: str) -> str:
    """Return our name of a role; raise ArtifactError for an unknown one."""
    role = SAME_ROLES.get(role, role)
    if role not in ROLES:
        raise ArtifactError(
            f"{place}: role `{role[:60]}` is not known", hint=f"known: {', '.join(ROLES)}"
        )
    return role


def text_of_content(place: Place, content: Any) -> str | None:
    """Return a content as text, its parts joined; None for what is no text.

    Raise ArtifactError for a part that is an image or a sound.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in ("text", "input_text", "output_text"):
            raise ArtifactError(
                f"{place}: a content part is `{kind[:60]}`, only text is learned",
                hint="leave such conversations out",
            )
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts)


def _refuse_tools(place: Place, message: Mapping[str, Any]) -> None:
    is_call = any(message.get(key) for key in TOOL_KEYS)
    if message["role"] in TOOL_ROLES or is_call:
        said = "a message of a tool" if message["role"] in TOOL_ROLES else "a call of a tool"
        raise ArtifactError(f"{place}: {said} is not text of the conversation", hint=_NO_TOOLS)


def _not_a_message(place: Place, message: Any) -> ArtifactError:
    hint = ""
    if isinstance(message, dict):
        more = [str(key) for key in message if key not in _READ_KEYS and str(key).isidentifier()]
        keys = ", ".join(f".{key}" for key in more)
        if keys:
            program = f"del(.messages[] | {keys})"
            hint = f"leave the other keys out: jq -c '{program}' OLD.jsonl > NEW.jsonl"
    return ArtifactError(f'{place}: a message must be {{"role", "content"}} with text', hint=hint)


def _learned_end(place: Place, turns: Sequence[Mapping[str, Any]]) -> int:
    """Return how many of the messages are kept: those up to the last answer that is learned.

    Raise ArtifactError where an answer before it is not to be learned: training learns all.
    """
    answers = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    weights = {at: turns[at].get("weight", 1) for at in answers}
    for at, weight in weights.items():
        if weight not in (0, 1) or isinstance(weight, bool):
            raise ArtifactError(f"{place}: `weight` of message {at + 1} must be 0 or 1")
    learned = [at for at in answers if weights[at]]
    if not answers or not any(weight == 0 for weight in weights.values()):
        return len(turns)
    if not learned:
        return 0
    skipped = [at for at in answers if at < learned[-1] and not weights[at]]
    if skipped:
        raise ArtifactError(
            f"{place}: message {skipped[0] + 1} has weight 0 before an answer with weight 1",
            hint="every answer of a conversation is learned: split it, or set the weight to 1",
        )
    return learned[-1] + 1
