"""The messages of a conversation: a user's are read strictly, the model's own replies leniently.

The rule to keep: a reply of this service is accepted as history, whatever a client's library made
of it: null contents, fields that only replies have, fields that libraries add for themselves.
Standard library only.
"""

import json
from typing import Any

from device.engine.base import FieldError
from device.errors import DeviceError
from device.manifest.pictures import MAX_PICTURES, PARTS
from device.pictures import from_url, pictures_of

Message = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 512
_PICTURES = ("image_url", "input_image", "image")
"""Kinds of parts that show pictures, in one API or another."""
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
    if len(pictures_of(messages)) > MAX_PICTURES:
        problem = f"at most {MAX_PICTURES} pictures in a conversation"
        raise FieldError("messages", problem, code="bad_picture")
    last = messages[-1]
    if not last["content"].strip() and last["role"] != "tool":
        raise FieldError("messages", "the question is empty", code="empty_question")

    return messages


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise FieldError(where, "must be an object with `role` and `content`")

    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    if role == "assistant":
        calls = _calls(value.get("tool_calls"), f"{where}.tool_calls")
        return {"role": role, "content": _reply(value, where), **calls}

    unknown = [name for name in value if name not in _ASKED and value[name] not in (None, [], {})]
    if unknown:
        place = f"{where}.{min(unknown)}"[:120]
        raise FieldError(place, "is not a field of a message", code="unknown_field")

    given = value.get("content")
    if role == "tool":
        # A tool may have nothing to say.
        content = "" if given is None else _content(given, f"{where}.content")
        return {"role": role, "content": content, **_named(value, where)}

    if role == "user" and isinstance(given, list):
        return {"role": role, **_seen(given, f"{where}.content")}
    content = _content(given, f"{where}.content")
    return {"role": "system" if role == "developer" else role, "content": content}


def _seen(given: list[Any], where: str) -> Message:
    """Return the content of a question in parts: its text, and the parts if one is a picture."""
    parts = [
        _picture(part, where)
        if isinstance(part, dict) and part.get("type") == "image_url"
        else _part(part, where, (), "a picture is read as an `image_url` part")
        for part in given
    ]
    text = "".join(part for part in parts if isinstance(part, str))
    has_picture = any(isinstance(part, bytes) for part in parts)
    return {"content": text, PARTS: parts} if has_picture else {"content": text}


def _picture(part: Message, where: str) -> bytes:
    """Return the picture of OpenAI's `image_url` part, a `data:` URL; raise FieldError."""
    given = part.get("image_url")
    fields = given if isinstance(given, dict) else {"url": given}
    unknown = set(part) - {"type", "image_url"} | set(fields) - {"url", "detail"}
    if unknown:
        problem = f"`{min(unknown)[:80]}` is not a field of a picture"
        raise FieldError(where, problem, code="unknown_field")
    try:
        return from_url(fields.get("url"))
    except DeviceError as error:
        raise FieldError(where, error.message, code=error.code) from error


def _named(value: Message, where: str) -> Message:
    """Return which call a result belongs to, and the name of its tool."""
    named = {name: value.get(name) for name in ("tool_call_id", "name")}
    for name, each in named.items():
        if each is not None and not isinstance(each, str):
            raise FieldError(f"{where}.{name}", "must be a text")
    return {name: each for name, each in named.items() if each is not None}


def _calls(value: Any, where: str) -> Message:
    """Return the calls of a reply as templates take them: arguments are objects, not texts."""
    if not value:
        return {}
    if not isinstance(value, list):
        raise FieldError(where, "must be a list of calls")
    return {"tool_calls": [_call(call, f"{where}[{number}]") for number, call in enumerate(value)]}


def _call(value: Any, where: str) -> Message:
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not isinstance(function, dict):
        raise FieldError(where, "must be an object with `id` and `function.name`")

    arguments = _arguments(function.get("arguments"))
    known = value.get("id")
    return {
        "id": known if isinstance(known, str) else "",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _arguments(value: Any) -> Message:
    """Return the arguments of a call as an object; a text that was cut off is kept as it is."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=str) if value.strip() else {}
        except (ValueError, RecursionError):
            return {"unreadable": value}
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"unreadable": value}


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


def _part(
    value: Any,
    where: str,
    silent: tuple[str, ...],
    unseen: str = "a picture is read in a question alone, whose `role` is `user`",
) -> str:
    """Return the text of a part; `unseen` says of a picture why it is refused."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in silent:
        return ""
    if not isinstance(kind, str) or kind not in _TEXTS:
        problem = unseen if kind in _PICTURES else "this model reads text parts only"
        raise FieldError(where, problem, code="unsupported")

    text = value.get(_TEXTS[kind])
    if not isinstance(text, str):
        raise FieldError(where, "must be a text")

    return text
