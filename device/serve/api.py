"""OpenAI's requests, read strictly: every field is on a list, has a kind and a range, and is named when it is refused.

Fields that clients send without meaning anything by them are taken at the value that changes nothing. Standard library only.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from device.engine.base import RANGES, FieldError, Sampling, checked_number
from device.errors import DeviceError
from device.serve import schema

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 512
MAX_INPUTS = 64
"""Texts of one request for embeddings."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Fields without effect here → the values that ask for none; null does so everywhere."""
IGNORED = ("metadata", "model", "prompt_cache_key", "safety_identifier", "user")
"""Fields that may say anything: one board serves one model to whom it serves."""

Message = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """A request that can be answered: a conversation, or a prompt as it stands."""

    messages: tuple[Message, ...]
    prompt: "str | tuple[int, ...]"
    sampling: Sampling
    stream: bool = False
    include_usage: bool = False

    @property
    def chat(self) -> bool:
        """True for a conversation, False for a plain prompt."""
        return bool(self.messages)


@dataclass(frozen=True)
class Texts:
    """A request for embeddings: texts, or prompts as token ids."""

    inputs: "tuple[str | tuple[int, ...], ...]"
    base64: bool = False
    """Whether the vectors are sent as base64 of little-endian float32."""


def read_chat(body: bytes, default_max_tokens: int) -> Question:
    """Read a request of /v1/chat/completions; raise FieldError."""
    fields = _fields(body, "messages", "max_completion_tokens")
    messages, top = _messages(fields.get("messages")), _chat_logprobs(fields)
    return Question(messages, "", _sampling(fields, default_max_tokens, top), *_streaming(fields))


def read_completion(body: bytes, default_max_tokens: int) -> Question:
    """Read a request of /v1/completions; raise FieldError."""
    fields = _fields(body, "prompt")
    if fields.pop("top_logprobs", 0):
        raise FieldError(
            "top_logprobs", "is a field of conversations, a prompt takes a number of `logprobs`"
        )
    top = _renamed("logprobs", "top_logprobs", fields["logprobs"]) if "logprobs" in fields else None
    return Question(
        (),
        _prompt(fields.get("prompt")),
        _sampling(fields, default_max_tokens, top),
        *_streaming(fields),
    )


def read_embeddings(body: bytes) -> Texts:
    """Read a request of /v1/embeddings; raise FieldError."""
    fields = _object(body)
    if unknown := set(fields) - {"input", "encoding_format", *IGNORED}:
        raise FieldError(min(unknown)[:80], "is not a field of this request", code="unknown_field")
    value, form = fields.get("input"), fields.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise FieldError("encoding_format", "must be `float` or `base64`")
    several = isinstance(value, list) and value and not isinstance(value[0], int)
    inputs = value if several else [value]
    if not isinstance(inputs, list) or len(inputs) > MAX_INPUTS:
        raise FieldError("input", f"at most {MAX_INPUTS} texts at once")
    return Texts(tuple(_prompt(each, "input") for each in inputs), base64=form == "base64")


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DeviceError("invalid_json", "the body is not valid JSON", status=400) from error
    if not isinstance(fields, dict):
        raise DeviceError("invalid_json", "the body is not a JSON object", status=400)
    return fields


def _fields(body: bytes, *own: str) -> dict[str, Any]:
    """Return the fields that are set, all of them known."""
    fields = _object(body)
    known = {
        *own,
        *RANGES,
        *NEUTRAL,
        *IGNORED,
        "logprobs",
        "response_format",
        "stop",
        "stream",
        "stream_options",
    }
    for name, value in fields.items():
        if name not in known:
            raise FieldError(name[:80], "is not a field of this request", code="unknown_field")
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            raise FieldError(
                name,
                f"is not supported here, leave it out or at {json.dumps(NEUTRAL[name][0])}",
                code="unsupported",
            )
    return {name: value for name, value in fields.items() if value is not None}


def _chat_logprobs(fields: dict[str, Any]) -> "int | None":
    """Return how many likely tokens are asked for with each token; None where not even its own probability is."""
    asked, top = (
        _flag(fields, "logprobs"),
        checked_number("top_logprobs", fields.pop("top_logprobs", 0)),
    )
    if top and not asked:
        raise FieldError("top_logprobs", "needs `logprobs`")
    return int(top) if asked else None


def _response_format(value: Any) -> str:
    """Return the grammar that an answer is held to; empty for none."""
    kind = value.get("type") if isinstance(value, dict) else None
    if (
        kind == "json_schema"
        and isinstance(value.get("json_schema"), dict)
        and "schema" in value["json_schema"]
    ):
        return schema.grammar(value["json_schema"]["schema"])
    if kind not in ("text", "json_object"):
        problem = "must be `text`, `json_object`, or `json_schema` with `json_schema.schema`"
        raise FieldError("response_format", f"`type` {problem}")
    return schema.any_object() if kind == "json_object" else ""


def _sampling(
    fields: Mapping[str, Any], default_max_tokens: int, top_logprobs: "int | None"
) -> Sampling:
    asked = {name: checked_number(name, fields[name]) for name in RANGES if name in fields}
    if "max_completion_tokens" in fields:
        asked["max_tokens"] = _renamed(
            "max_completion_tokens", "max_tokens", fields["max_completion_tokens"]
        )
    grammar = _response_format(fields["response_format"]) if "response_format" in fields else ""
    fixed = {
        "stop": _stop(fields.get("stop", ())),
        "grammar": grammar,
        "top_logprobs": top_logprobs,
    }
    return Sampling(**{"max_tokens": default_max_tokens, **fixed, **asked})


def _renamed(field: str, known: str, value: Any) -> Any:
    try:
        return checked_number(known, value)
    except FieldError as error:
        raise FieldError(field, error.message.partition(": ")[2]) from error


def _stop(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise FieldError("stop", "must be a text or a list of texts")
    return tuple(texts)


def _streaming(fields: Mapping[str, Any]) -> tuple[bool, bool]:
    options = fields.get("stream_options", {})
    if not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise FieldError("stream_options", "must be an object with `include_usage` alone")
    return _flag(fields, "stream"), _flag(options, "include_usage")


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise FieldError(name, "must be true or false")
    return value


def _messages(value: Any) -> tuple[Message, ...]:
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
    if unknown := set(value) - {
        "role",
        "content",
        "name",
        "refusal",
        "annotations",
        "audio",
        "function_call",
        "tool_calls",
    }:
        raise FieldError(
            f"{where}.{min(unknown)}"[:120], "is not a field of a message", code="unknown_field"
        )
    if value.get("role") not in ROLES:
        raise FieldError(f"{where}.role", f"must be one of {', '.join(ROLES)}")
    role = "system" if value["role"] == "developer" else value["role"]
    return {"role": role, "content": _content(value.get("content"), f"{where}.content")}


def _content(value: Any, where: str) -> str:
    """Return the text of a message: a text, or OpenAI's list of text parts."""
    parts = (
        [value]
        if isinstance(value, str)
        else [_part(part, where) for part in _listed(value, where)]
    )
    return "".join(_text(part, where) for part in parts)


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise FieldError(where, "must be a text")
    return value


def _part(value: Any, where: str) -> Any:
    if not isinstance(value, dict) or value.get("type") != "text":
        raise FieldError(where, "this model reads text parts only", code="unsupported")
    return value.get("text")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise FieldError(where, "must be a text")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise FieldError(where, "is not valid Unicode: it holds half of a surrogate pair")
    return value


def _prompt(value: Any, field: str = "prompt") -> "str | tuple[int, ...]":
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if (
        isinstance(value, list)
        and value
        and all(isinstance(token, int) and not isinstance(token, bool) for token in value)
    ):
        return tuple(value)
    if isinstance(value, str) and not value.strip():
        raise FieldError(field, "the question is empty", code="empty_question")
    if not isinstance(value, str):
        raise FieldError(field, "must be a text, or a list of token ids")
    return _text(value, field)


READERS: dict[str, Callable[[bytes, int], Question]] = {
    "/v1/chat/completions": read_chat,
    "/v1/completions": read_completion,
}
"""Path → how its request is read."""
