"""The messages of a conversation: a user's are read strictly, the model's own replies leniently.

The rule to keep: a reply of this service is accepted as history, whatever a client's library made
of it: null contents, fields that only replies have, fields that libraries add for themselves.
Standard library only.
"""

from typing import Any

from device.engine.base import FieldError

Message = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 512
_ASKED = {"role", "content", "name", "tool_call_id"}
"""Fields of a message that is not a reply; `name` and `tool_call_id` name a speaker and change
nothing here."""
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kind of a message part → its field with the text."""
_SILENT = ("reasoning", "thinking", "redacted_thinking")
"""Kinds of reply parts that are not part of the answer."""


def read_messages(value: Any) -> tuple[Message, ...]:
    """Return (role, text) of each message of a conversation; raise FieldError."""
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise FieldError("messages", f"must be a list of 1 to {MAX_MESSAGES} messages")

    messages = tuple(
        _message(message, f"messages[{number}]") for number, message in enumerate(value)
    )
    if not messages[-1]["content"].strip():
        raise FieldError("messages", "the question is empty", code="empty_question")

    return messages


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise FieldError(where, "must be an object with `role` and `content`")

    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    if role == "assistant":
        return {"role": role, "content": _reply(value, where)}

    unknown = [name for name in value if name not in _ASKED and value[name] not in (None, [], {})]
    if unknown:
        place = f"{where}.{min(unknown)}"[:120]
        raise FieldError(place, "is not a field of a message", code="unknown_field")

    content = _content(value.get("content"), f"{where}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _reply(value: Message, where: str) -> str:
    """Return the text of a reply: its content, or its refusal; empty if it called a tool."""
    content = value.get("content")
    refusal = value.get("refusal")
    if content is not None:
        return _content(content, f"{where}.content", silent=_SILENT)
    if "content" not in value and not any(value.get(name) for name in ("tool_calls", "refusal")):
        raise FieldError(f"{where}.content", "must be a text")

    return refusal if isinstance(refusal, str) else ""


def _content(value: Any, where: str, silent: tuple[str, ...] = ()) -> str:
    """Return the text of a message, which is a string or OpenAI's list of text parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise FieldError(where, "must be a text")
    return "".join(_part(part, where, silent) for part in value)


def _part(value: Any, where: str, silent: tuple[str, ...]) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in silent:
        return ""
    if not isinstance(kind, str) or kind not in _TEXTS:
        raise FieldError(where, "this model reads text parts only", code="unsupported")

    text = value.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise FieldError(where, "must be a text")

    return text
