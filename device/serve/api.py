"""OpenAI's requests, read strictly: every field is listed, has a range, and is named in errors.

A field that restricts the answer is enforced or refused, never dropped. Optional fields that
clients send by default are accepted only with their no-op value, and every field may be null. A
reply comes back as history (conversation.py). A body has passed body.py before it arrives here.
Standard library only.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from device.engine.base import (
    MAX_BIAS,
    MAX_BIASES,
    MAX_CONTEXT,
    RANGES,
    FieldError,
    Sampling,
    checked_number,
    whole,
)
from device.manifest.markups import Markup
from device.manifest.pictures import PARTS
from device.serve import schema
from device.serve.body import read_object
from device.serve.conversation import Message, read_messages
from device.serve.fields import (
    NEUTRAL_SAMPLERS,
    WITHOUT_EFFECT,
    check_without_effect,
    is_one_of,
    not_null,
    same,
)
from device.serve.tools import FIELDS as TOOL_FIELDS
from device.serve.tools import Tools, read_tools

MAX_INPUTS = 2048
"""Maximum number of texts in one request for embeddings."""
MAX_LOOKED_UP = 20
"""Maximum number of passages in one answer of /v1/knowledge."""
MAX_ANSWERS = 4
"""Maximum number of answers to one question, given one after the other."""
UNLIMITED = -1
"""Value of `max_tokens` for an answer that may go on until the context is full."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **NEUTRAL_SAMPLERS,
    "add_generation_prompt": (True,),
    "audio": (),
    "best_of": (1,),
    "cache_prompt": (True, False),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "skip_special_tokens": (True,),
    "suffix": ("",),
    "timings_per_token": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("low", "medium", "high"),
    "web_search_options": (),
}
"""Fields without effect here → their no-op values; null is one for every field."""
OLLAMA = {
    "format": "`response_format`",
    "num_predict": "`max_tokens`",
    "options": "`temperature`, `max_tokens` and other fields beside `messages`",
    "think": "`reasoning_effort`",
}
"""Fields of Ollama's own API → what OpenAI's has in their place."""
IGNORED = (
    "metadata",
    "model",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
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
    tools: "Tools | None" = None
    """Tools that the answer may call; None if there are none."""
    markup: "Markup | None" = None
    """How the model's template writes calls, if the answer may call tools."""
    answers: int = 1
    """Number of answers to give, one after the other."""
    echo: bool = False
    """Whether the prompt stands before its answer."""

    def sampling_of(self, number: int) -> Sampling:
        """Return how the answer of this number is sampled: each has a seed of its own."""
        seed = self.sampling.seed
        return self.sampling if seed is None else replace(self.sampling, seed=_next(seed, number))

    @property
    def sees(self) -> bool:
        """Whether there is a picture in the conversation."""
        return any(PARTS in message for message in self.messages)

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
    return chat_question(read_object(body), default_max_tokens)


def chat_question(given: Mapping[str, Any], default_max_tokens: int) -> Question:
    """Return the question of a conversation's fields; raise FieldError."""
    fields = _fields(given, "messages", "max_completion_tokens", *TOOL_FIELDS)
    messages = read_messages(fields.get("messages"))
    top = _chat_logprobs(fields)
    form = _response_format(fields.pop("response_format", {"type": "text"}))
    tools = read_tools(fields, form)
    sampling = _sampling(fields, default_max_tokens, top)
    if form and not tools:
        sampling = replace(sampling, grammar=schema.grammar(form.schema))

    return Question(
        messages,
        "",
        sampling,
        *_streaming(fields),
        says_length=not fields.keys().isdisjoint({"max_tokens", "max_completion_tokens"}),
        tools=tools,
        answers=_answers(fields),
    )


def read_completion(body: bytes, default_max_tokens: int) -> Question:
    """Read a request of /v1/completions; raise FieldError."""
    fields = _fields(read_object(body), "prompt", "echo")
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
        answers=_answers(fields),
        echo=_flag(fields, "echo"),
    )


def read_embeddings(body: bytes) -> Texts:
    """Read a request of /v1/embeddings; raise FieldError."""
    return embedded_texts(read_object(body))


def embedded_texts(given: Mapping[str, Any]) -> Texts:
    """Return the texts of the fields of a request for embeddings; raise FieldError."""
    fields = not_null(given)
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


def _fields(given: Mapping[str, Any], *own: str) -> dict[str, Any]:
    """Return the fields that are not null; raise FieldError if one is unknown."""
    fields = not_null(given)
    known = {*own, *RANGES, *NEUTRAL, *IGNORED, *WITHOUT_EFFECT}
    known |= {"logprobs", "response_format", "stop", "stream", "stream_options"}
    known |= {"logit_bias", "n"}

    for name, value in fields.items():
        if name in OLLAMA:
            problem = f"is a field of Ollama's API, here it is: {OLLAMA[name]}"
            raise FieldError(name, problem, code="unknown_field")
        if name not in known:
            raise FieldError(name[:80], "is not a field of this request", code="unknown_field")
        if name in WITHOUT_EFFECT:
            check_without_effect(name, value, name)
        if name in NEUTRAL and name not in own and not is_one_of(value, NEUTRAL[name]):
            raise FieldError(
                name,
                "is not supported here, leave it out"
                + "".join(f" or at {json.dumps(neutral)}" for neutral in NEUTRAL[name][:1]),
                code="unsupported",
            )

    return fields


def _chat_logprobs(fields: dict[str, Any]) -> "int | None":
    """Return the number of likely tokens asked for with each token.

    None if not even the token's own probability is asked for.
    """
    asked = _flag(fields, "logprobs")
    top = checked_number("top_logprobs", fields.pop("top_logprobs", 0))
    if top and not asked:
        raise FieldError("top_logprobs", "needs `logprobs`")
    return int(top) if asked else None


def _response_format(value: Any) -> "schema.Answer | None":
    """Return the schema of a response format; None if it restricts nothing."""
    fields = not_null(value) if isinstance(value, dict) else {}
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
    if kind == "text":
        return None
    return schema.Answer(described[0] if described else {"type": "object"})


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
    fields = not_null(value) if isinstance(value, dict) else {}
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
    fields = {name: _unlimited(name, value) for name, value in fields.items()}
    asked = {name: checked_number(name, fields[name]) for name in RANGES if name in fields}
    if "max_completion_tokens" in fields:
        most = _renamed("max_completion_tokens", "max_tokens", fields["max_completion_tokens"])
        asked["max_tokens"] = min(most, asked.get("max_tokens", most))

    form = _response_format(fields["response_format"]) if "response_format" in fields else None
    fixed = {
        "stop": _stop(fields.get("stop", ())),
        "grammar": schema.grammar(form.schema) if form else "",
        "logit_bias": _biases(fields.get("logit_bias", {})),
        "top_logprobs": top_logprobs,
    }
    return Sampling(**{"max_tokens": default_max_tokens, **fixed, **asked})


def _unlimited(name: str, value: Any) -> Any:
    """Return the value of a field; the context's bound for a length without one."""
    is_length = name in ("max_tokens", "max_completion_tokens")
    return MAX_CONTEXT if is_length and same(value, UNLIMITED) else value


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    """Return the biases of tokens, each between -100 and 100."""
    if not isinstance(value, dict) or len(value) > MAX_BIASES:
        problem = f"must be an object with at most {MAX_BIASES} token ids as names"
        raise FieldError("logit_bias", problem)

    for token, bias in value.items():
        is_number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
        if not re.fullmatch("[0-9]{1,9}", token):
            raise FieldError("logit_bias", f"`{token[:40]}` is not the id of a token")
        if not is_number or not -MAX_BIAS <= bias <= MAX_BIAS:
            problem = f"`{token}` must have a number between -{MAX_BIAS} and {MAX_BIAS}"
            raise FieldError("logit_bias", problem)

    biases = {int(token): float(bias) for token, bias in value.items()}
    return tuple(biases.items())


def _answers(fields: Mapping[str, Any]) -> int:
    """Return the number of answers that are asked for."""
    count = whole(fields.get("n", 1))
    if type(count) is not int or not 1 <= count <= MAX_ANSWERS:
        raise FieldError("n", f"must be a whole number between 1 and {MAX_ANSWERS}")
    return count


def _next(seed: int, number: int) -> int:
    """Return the seed of an answer: seeds that clients choose stay in 64 bits."""
    return seed + number if seed < 2**63 - MAX_ANSWERS else seed - number


def _renamed(field: str, known: str, value: Any) -> Any:
    try:
        return checked_number(known, value)
    except FieldError as error:
        raise FieldError(field, error.problem) from error


def _stop(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise FieldError("stop", "must be a text or a list of texts")
    return tuple(texts)


def _streaming(fields: Mapping[str, Any]) -> tuple[bool, bool]:
    options = fields.get("stream_options", {})
    options = not_null(options) if isinstance(options, dict) else {"": options}
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
