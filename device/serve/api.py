"""OpenAI's requests, read strictly: every field is listed, has a range, and is named in errors.

A field that restricts the answer is enforced or refused, never dropped. Optional fields that
clients send by default are accepted only with their no-op value, and every field may be null. A
reply comes back as history (conversation.py). A body has passed body.py before it arrives here.
Standard library only.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from device.engine.base import RANGES, FieldError, Sampling, checked_number
from device.serve import schema
from device.serve.body import read_object
from device.serve.conversation import Message, read_messages

MAX_INPUTS = 64
"""Maximum number of texts in one request for embeddings."""
MAX_LOOKED_UP = 20
"""Maximum number of passages in one answer of /v1/knowledge."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
}
"""Fields without effect here → their no-op values; null is one for every field."""
IGNORED = ("metadata", "model", "prompt_cache_key", "safety_identifier", "user")
"""Fields that may have any value: one board serves one model, whoever asks."""
_FORMS = {"text": set(), "json_object": {"schema"}, "json_schema": {"schema", "json_schema"}}
"""Kind of a response format → its fields besides `type`. `schema` is llama-server's, `json_schema`
is OpenAI's."""


@dataclass(frozen=True)
class Question:
    """A request for an answer: to a conversation, or to a plain prompt."""

    messages: tuple[Message, ...]
    prompt: "str | tuple[int, ...]"
    sampling: Sampling
    stream: bool = False
    include_usage: bool = False
    says_length: bool = False
    """Whether the client said how long the answer may be."""

    @property
    def chat(self) -> bool:
        """True for a conversation, False for a plain prompt."""
        return bool(self.messages)


@dataclass(frozen=True)
class Texts:
    """A request for embeddings of texts, or of prompts as token ids."""

    inputs: "tuple[str | tuple[int, ...], ...]"
    base64: bool = False
    """Whether the vectors are sent as base64 of little-endian float32."""


def read_chat(body: bytes, default_max_tokens: int) -> Question:
    """Read a request of /v1/chat/completions; raise FieldError."""
    fields = _fields(body, "messages", "max_completion_tokens")
    messages = read_messages(fields.get("messages"))
    top = _chat_logprobs(fields)
    return Question(
        messages,
        "",
        _sampling(fields, default_max_tokens, top),
        *_streaming(fields),
        says_length=not fields.keys().isdisjoint({"max_tokens", "max_completion_tokens"}),
    )


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
    fields = _set_fields(read_object(body))
    if unknown := set(fields) - {"input", "encoding_format", *IGNORED}:
        raise FieldError(min(unknown)[:80], "is not a field of this request", code="unknown_field")

    form = fields.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise FieldError("encoding_format", "must be `float` or `base64`")

    value = fields.get("input")
    several = isinstance(value, list) and value and isinstance(value[0], (str, list))
    inputs = value if several else [value]
    if not isinstance(inputs, list) or len(inputs) > MAX_INPUTS:
        raise FieldError("input", f"at most {MAX_INPUTS} texts at once")

    return Texts(tuple(_prompt(each, "input") for each in inputs), base64=form == "base64")


def read_lookup(query: Mapping[str, str]) -> tuple[str, int]:
    """Return question and number of passages of a request of /v1/knowledge; raise FieldError."""
    if unknown := set(query) - {"q", "take"}:
        raise FieldError(min(unknown)[:80], "is not a field of this request", code="unknown_field")
    question, take = query.get("q", "").strip(), query.get("take", "3")
    if not question:
        raise FieldError("q", "the question is empty", code="empty_question")
    number = int(take) if re.fullmatch("[0-9]{1,4}", take) else 0
    if not 1 <= number <= MAX_LOOKED_UP:
        raise FieldError("take", f"must be a whole number between 1 and {MAX_LOOKED_UP}")
    return question, number


def _set_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null: clients send null for a field that they do not use."""
    return {name: value for name, value in fields.items() if value is not None}


def _fields(body: bytes, *own: str) -> dict[str, Any]:
    """Return the fields that are not null; raise FieldError if one is unknown."""
    fields = _set_fields(read_object(body))
    known = {*own, *RANGES, *NEUTRAL, *IGNORED}
    known |= {"logprobs", "response_format", "stop", "stream", "stream_options"}

    for name, value in fields.items():
        if name not in known:
            raise FieldError(name[:80], "is not a field of this request", code="unknown_field")
        if name in NEUTRAL and not any(_same(value, neutral) for neutral in NEUTRAL[name]):
            raise FieldError(
                name,
                f"is not supported here, leave it out or at {json.dumps(NEUTRAL[name][0])}",
                code="unsupported",
            )

    return fields


def _same(value: Any, other: Any) -> bool:
    """Compare as JSON does: `true` is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _chat_logprobs(fields: dict[str, Any]) -> "int | None":
    """Return the number of likely tokens asked for with each token.

    None if not even the token's own probability is asked for.
    """
    asked = _flag(fields, "logprobs")
    top = checked_number("top_logprobs", fields.pop("top_logprobs", 0))
    if top and not asked:
        raise FieldError("top_logprobs", "needs `logprobs`")
    return int(top) if asked else None


def _response_format(value: Any) -> str:
    """Return the grammar of a response format; empty if it restricts nothing."""
    fields = _set_fields(value) if isinstance(value, dict) else {}
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or kind not in _FORMS:
        raise FieldError("response_format", "`type` must be `text`, `json_object` or `json_schema`")
    if unknown := set(fields) - _FORMS[kind]:
        problem = f"`{min(unknown)[:80]}` is not a field of `{kind}`"
        raise FieldError("response_format", problem, code="unknown_field")

    described = [fields["schema"]] if "schema" in fields else []
    if "json_schema" in fields:
        described.append(_named_schema(fields["json_schema"]))

    if len(described) > 1 or (kind == "json_schema" and not described):
        raise FieldError("response_format", "needs one schema: `json_schema.schema`, or `schema`")
    if described:
        return schema.grammar(described[0])

    return schema.any_object() if kind == "json_object" else ""


def _named_schema(value: Any) -> Any:
    """Return the schema in OpenAI's `json_schema`.

    `strict` changes nothing, since every schema is enforced.
    """
    kinds: dict[str, Any] = {
        "name": str,
        "description": str,
        "strict": bool,
        "schema": (dict, bool),
    }
    fields = _set_fields(value) if isinstance(value, dict) else {}
    if "schema" not in fields:
        raise FieldError("response_format", "needs one schema: `json_schema.schema`, or `schema`")

    for name, each in fields.items():
        if name not in kinds:
            problem = f"`json_schema.{name[:80]}` is not a field of a schema's description"
            raise FieldError("response_format", problem, code="unknown_field")
        if not isinstance(each, kinds[name]):
            raise FieldError("response_format", f"`json_schema.{name}` is of a wrong kind")

    return fields["schema"]


def _sampling(
    fields: Mapping[str, Any], default_max_tokens: int, top_logprobs: "int | None"
) -> Sampling:
    asked = {name: checked_number(name, fields[name]) for name in RANGES if name in fields}
    if "max_completion_tokens" in fields:
        most = _renamed("max_completion_tokens", "max_tokens", fields["max_completion_tokens"])
        asked["max_tokens"] = min(most, asked.get("max_tokens", most))

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
    options = _set_fields(options) if isinstance(options, dict) else {"": options}
    if set(options) - {"include_usage", "include_obfuscation"}:
        raise FieldError("stream_options", "must be an object with `include_usage` alone")

    _flag(options, "include_obfuscation")
    return _flag(fields, "stream"), _flag(options, "include_usage")


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise FieldError(name, "must be true or false")
    return value


def _prompt(value: Any, field: str = "prompt") -> "str | tuple[int, ...]":
    """Return a prompt as text or token ids; a list with one prompt is that prompt."""
    if (
        field == "prompt"
        and isinstance(value, list)
        and value
        and isinstance(value[0], (str, list))
    ):
        if len(value) > 1:
            problem = "holds several prompts, and one is answered at a time"
            raise FieldError(field, problem, code="unsupported")
        value = value[0]

    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return tuple(value)
    if not isinstance(value, str):
        raise FieldError(field, "must be a text, or a list of token ids")
    if not value.strip():
        raise FieldError(field, "the question is empty", code="empty_question")

    return value


READERS: dict[str, Callable[[bytes, int], Question]] = {
    "/v1/chat/completions": read_chat,
    "/v1/completions": read_completion,
}
"""Path → function that reads its request."""
