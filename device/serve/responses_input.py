"""The `input` of /v1/responses: a text or a list of items, turned into a conversation's messages.

The items of one answer, its text and its calls, become one message, as a template shows them.
What a message may hold is for conversation.py to say. Standard library only.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from device.engine.base import FieldError
from device.serve.conversation import MAX_MESSAGES
from device.serve.fields import not_null

ROLES = ("user", "assistant", "system", "developer")
_MARKS = ("type", "id", "status", "phase")
"""Fields of a message that its library adds; they change nothing."""
_PLACE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)


@dataclass
class Conversation:
    """Messages with the place in the request that each comes from."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Id of each call so far → the function that it calls."""

    def add(self, message: dict[str, Any], place: str) -> None:
        """Append a message."""
        self.messages.append(message)
        self.places.append(place)

    def place(self, of_message: str) -> str:
        """Return the place in the request of a field of a message."""
        match = _PLACE.fullmatch(of_message)
        if match is None:
            return "input"
        number, field = int(match[1]), match[2]
        is_result = self.messages[number]["role"] == "tool"
        return self.places[number] + (field.replace(".content", ".output") if is_result else field)


def read_input(value: Any, instructions: Any) -> Conversation:
    """Return the messages of an input, its instructions first; raise FieldError."""
    if not isinstance(instructions, str):
        raise FieldError("instructions", "must be a text")
    conversation = Conversation()
    if instructions:
        conversation.add({"role": "system", "content": instructions}, "instructions")

    if isinstance(value, str):
        conversation.add({"role": "user", "content": value}, "input")
        return conversation
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise FieldError("input", f"must be a text, or a list of 1 to {MAX_MESSAGES} items")

    for number, item in enumerate(value):
        _add(item, f"input[{number}]", conversation)
    if len(conversation.messages) == bool(instructions):
        raise FieldError("input", "the question is empty", code="empty_question")
    return conversation


def _add(value: Any, where: str, conversation: Conversation) -> None:
    """Append the message of an item."""
    kind = value.get("type", "message") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise FieldError(where, "must be an object, a message with `role` and `content`")

    item = not_null(value)
    if kind == "message":
        _add_message(item, where, conversation)
    elif kind == "function_call":
        _add_call(item, where, conversation)
    elif kind == "function_call_output":
        _add_result(item, where, conversation)
    elif kind == "item_reference":
        problem = "nothing is stored: send the item itself in place of its id"
        raise FieldError(where, problem, code="unsupported")
    elif kind != "reasoning":  # what another model thought is no part of its answer
        problem = (
            f"`{kind[:80]}` is not supported here, `message`, `function_call`, "
            "`function_call_output` and `reasoning` are"
        )
        raise FieldError(where, problem, code="unsupported")


def _add_message(item: Mapping[str, Any], where: str, conversation: Conversation) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"{where}.role", f"must be one of {', '.join(ROLES)}")

    unknown = set(item) - {"role", "content", *_MARKS}
    if unknown and role != "assistant":
        place = f"{where}.{min(unknown)}"[:120]
        raise FieldError(place, "is not a field of a message", code="unknown_field")
    if "content" not in item:
        raise FieldError(f"{where}.content", "must be a text")
    content = item["content"]
    if role == "user" and isinstance(content, list):
        content = [_seen(part, f"{where}.content") for part in content]
    conversation.add({"role": role, "content": content}, where)


def _seen(part: Any, where: str) -> Any:
    """Return a part of a question as /v1/chat/completions has it: pictures are named otherwise."""
    if not isinstance(part, dict) or part.get("type") != "input_image":
        return part
    given = not_null(part)
    if "file_id" in given:
        problem = "nothing is stored: send the picture in `image_url`, as a `data:` URL"
        raise FieldError(where, problem, code="unsupported")
    unknown = set(given) - {"type", "image_url", "detail"}
    if unknown:
        problem = f"`{min(unknown)[:80]}` is not a field of a picture"
        raise FieldError(where, problem, code="unknown_field")
    return {"type": "image_url", "image_url": {"url": given.get("image_url")}}


def _add_call(item: Mapping[str, Any], where: str, conversation: Conversation) -> None:
    """Append a call to the answer that it belongs to."""
    known, name, arguments = (_text(item, each, where) for each in ("call_id", "name", "arguments"))
    if known in conversation.names:
        raise FieldError(f"{where}.call_id", f"`{known[:80]}` stands there twice")

    conversation.names[known] = name
    if not conversation.messages or conversation.messages[-1]["role"] != "assistant":
        conversation.add({"role": "assistant", "content": None}, where)
    function = {"name": name, "arguments": arguments}
    call = {"id": known, "type": "function", "function": function}
    conversation.messages[-1].setdefault("tool_calls", []).append(call)


def _add_result(item: Mapping[str, Any], where: str, conversation: Conversation) -> None:
    known = _text(item, "call_id", where)
    if known not in conversation.names:
        problem = f"no `function_call` before it has the id `{known[:80]}`; nothing is stored"
        raise FieldError(f"{where}.call_id", problem)
    if "output" not in item:
        raise FieldError(f"{where}.output", "must be a text")

    message = {"role": "tool", "content": item["output"], "tool_call_id": known}
    conversation.add({**message, "name": conversation.names[known]}, where)


def _text(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise FieldError(f"{where}.{name}", "must be a text")
    return value
