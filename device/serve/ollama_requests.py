"""Requests of Ollama's API, turned into the fields of OpenAI's and read by api.py.

The rule to keep: nothing that a client sends is dropped in silence. A field has an OpenAI field in
its place, or asks for what happens anyway, or is refused under the name that its client gave it.
Names and defaults: Ollama's docs/api.md and api/types.go. Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device.engine.base import FieldError
from device.errors import DeviceError
from device.serve.api import UNLIMITED, Question, Texts, chat_question, embedded_texts
from device.serve.fields import (
    LOADING,
    NEUTRAL_SAMPLERS,
    check_without_effect,
    is_one_of,
    not_null,
    same,
)

LATEST = ":latest"
"""Tag that Ollama adds to the name of a model that has none."""
_ANSWER = ("model", "options", "format", "stream", "keep_alive", "logprobs", "top_logprobs")
CHAT = (*_ANSWER, "messages", "tools")
GENERATE = (*_ANSWER, "prompt", "system", "images")
EMBED = ("model", "input", "options", "keep_alive", "truncate", "dimensions")
EMBEDDINGS = ("model", "prompt", "options", "keep_alive")
SHOW = ("model", "name", "verbose")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "think": (False,),
    "raw": (False,),
    "template": ("",),
    "suffix": ("",),
    "context": ([],),
    "shift": (False,),
    "truncate": (True, False),
}
"""Fields without effect here → their no-op values; null is one for every field."""
# A prompt that is too long is always refused, so neither value of `truncate` cuts one.
MAPPED = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "seed", "stop")},
    **{name: name for name in ("frequency_penalty", "presence_penalty", "repeat_penalty")},
    "num_predict": "max_tokens",
}
"""Option → the OpenAI field in its place."""
NEUTRAL_OPTIONS: dict[str, tuple[Any, ...]] = {
    **NEUTRAL_SAMPLERS,
    "vocab_only": (False,),
    "logits_all": (False,),
    "embedding_only": (False,),
}
"""Options without effect here → their no-op values."""
_WHOLE_CONTEXT = (-1, -2)
"""Values of `num_predict`: without end, and until the context is full; a board does the latter."""
_NAMES = {
    "response_format": "format",
    **{known: f"options.{option}" for option, known in MAPPED.items()},
}
"""OpenAI field → Ollama's name of it."""


@dataclass(frozen=True)
class Served:
    """What is served, as far as a request depends on it."""

    name: str
    max_tokens: int
    """Length limit of an answer if the request sets none."""


def read_chat(given: Mapping[str, Any], served: Served) -> "Question | None":
    """Return the question of /api/chat; None if it asks for the model to be loaded alone."""
    fields = _known(given, CHAT, served)
    asked = {**_answer(fields), **_given(fields, "messages")}
    if "tools" in fields:
        asked["tools"] = _tools(fields["tools"])
    if not fields.get("messages", []):
        return None

    if isinstance(asked["messages"], list):
        asked["messages"] = [_message(each, n) for n, each in enumerate(asked["messages"])]
    return _question(asked, served, _NAMES)


def read_generate(given: Mapping[str, Any], served: Served) -> "Question | None":
    """Return the question of /api/generate, as a conversation of one message.

    None if it asks for the model to be loaded alone.
    """
    fields = _known(given, GENERATE, served)
    for name in ("prompt", "system"):
        if not isinstance(fields.get(name, ""), str):
            raise FieldError(name, "must be a text")

    asked = _answer(fields)
    if not fields.get("prompt"):
        return None

    texts = {"system": fields.get("system", ""), "user": fields["prompt"]}
    asked["messages"] = [{"role": role, "content": text} for role, text in texts.items() if text]
    asked["messages"][-1]["content"] = _seen(fields["prompt"], fields.get("images", []), "images")
    return _question(asked, served, {**_NAMES, "messages": "prompt"}, "images")


def read_embed(given: Mapping[str, Any], served: Served) -> Texts:
    """Return the texts of /api/embed."""
    return _texts(_known(given, EMBED, served), "input", served)


def read_embeddings(given: Mapping[str, Any], served: Served) -> Texts:
    """Return the one text of /api/embeddings, the form before /api/embed."""
    return _texts(_known(given, EMBEDDINGS, served), "prompt", served)


def read_show(given: Mapping[str, Any], served: Served) -> None:
    """Check a request of /api/show, which may call its model `name`."""
    named = given.get("model") or given.get("name")
    _known({**given, "model": named}, SHOW, served)


def _known(given: Mapping[str, Any], known: tuple[str, ...], served: Served) -> dict[str, Any]:
    """Return the fields that are not null; raise DeviceError if one is not known, or the model."""
    fields = not_null(given)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise FieldError("model", "must be the name of a model")
    if model.removesuffix(LATEST) != served.name:
        raise DeviceError(
            "model_not_found",
            f"there is no model `{model[:80]}` here",
            hint=f"this is `{served.name}`",
            status=404,
        )

    for name, value in fields.items():
        if name in known:
            continue
        if name not in NEUTRAL:
            raise FieldError(name[:80], "is not a field of this request", code="unknown_field")
        _check_neutral(name, value, NEUTRAL[name])

    check_without_effect("keep_alive", fields.get("keep_alive", 0), "keep_alive")
    return fields


def _check_neutral(name: str, value: Any, neutral: tuple[Any, ...]) -> None:
    """Raise FieldError for a value that would change the answer."""
    if not is_one_of(value, neutral):
        raise FieldError(name, "is not supported here, leave it out", code="unsupported")


def _answer(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAI fields of what all requests for an answer share."""
    asked = {"stream": True, **_given(fields, "stream", "logprobs", "top_logprobs")}
    return {**asked, **_options(fields), **_format(fields.get("format", ""))}


def _given(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAI fields of `options`; raise FieldError for one that cannot be honoured."""
    given = fields.get("options", {})
    if not isinstance(given, dict):
        raise FieldError("options", "must be an object")

    options = not_null(given)
    for name, value in options.items():
        place = f"options.{name}"[:80]
        if name in NEUTRAL_OPTIONS:
            _check_neutral(place, value, NEUTRAL_OPTIONS[name])
        elif name in ("num_ctx", *LOADING):
            check_without_effect(name, value, place)
        elif name not in MAPPED:
            raise FieldError(place, "is not an option", code="unknown_field")

    mapped = {MAPPED[name]: value for name, value in options.items() if name in MAPPED}
    if is_one_of(mapped.get("max_tokens"), _WHOLE_CONTEXT):
        mapped["max_tokens"] = UNLIMITED
    if same(mapped.get("seed"), -1):
        del mapped["seed"]  # llama.cpp's mark for another seed each time
    return mapped


def _format(value: Any) -> dict[str, Any]:
    """Return the OpenAI field of `format`: nothing, any JSON object, or a schema."""
    if value == "":
        return {}
    if value == "json":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(value, dict):
        raise FieldError("format", "must be `json` or a JSON schema")
    return {"response_format": {"type": "json_object", "schema": value}}


def _message(value: Any, number: int) -> Any:
    """Return a message with OpenAI's names; what else is wrong with it is for its reader to say."""
    if not isinstance(value, dict):
        return value

    message = not_null(value)
    images = message.pop("images", [])
    if images != []:
        where = f"messages[{number}].images"
        if message.get("role") != "user":
            problem = "a picture is read in a question alone, whose `role` is `user`"
            raise FieldError(where, problem, code="unsupported")
        message["content"] = _seen(message.get("content", ""), images, where)
    if message.get("role") == "tool" and "tool_name" in message:
        message["name"] = message.pop("tool_name")
    for name in ("thinking", "tool_name", "tool_call_id"):
        if message.get(name) == "":
            del message[name]
    return message


def _seen(text: Any, images: Any, where: str) -> Any:
    """Return the content of a message with pictures in base64, which come before its text."""
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise FieldError(where, "must be a list of pictures in base64")
    if not images:
        return text
    if not isinstance(text, str):
        raise FieldError(where.replace("images", "content"), "must be a text")
    # JPEG or PNG: the bytes say which, and are asked. Go, in which Ollama is written, reads base64
    # with line ends, as `base64` and MIME write it.
    lines = (image.replace("\r", "").replace("\n", "") for image in images)
    urls = [f"data:image/png;base64,{image}" for image in lines]
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [*shown, {"type": "text", "text": text}]


def _tools(value: Any) -> Any:
    """Return tools with their type, which Ollama's clients may leave out."""
    if not isinstance(value, list):
        return value
    return [{"type": "function", **not_null(e)} if isinstance(e, dict) else e for e in value]


def _question(
    asked: Mapping[str, Any], served: Served, names: Mapping[str, str], images: str = ""
) -> "Question | None":
    """Return the question of OpenAI's fields; an error names Ollama's.

    `images` is the field with the pictures, where it is none of a message.
    """
    try:
        return chat_question(asked, served.max_tokens)
    except FieldError as error:
        if error.code == "bad_picture":
            place = images or error.field.replace(".content", ".images")
            names = {**names, error.field: place}
        raise _renamed(error, names) from error


def _texts(fields: Mapping[str, Any], own: str, served: Served) -> Texts:
    """Return the texts of a request for embeddings; its options are checked and change nothing."""
    _options(fields)
    if "dimensions" in fields:
        raise FieldError("dimensions", "all of the model's alone, leave it out", code="unsupported")
    if not isinstance(fields.get("truncate", True), bool):
        raise FieldError("truncate", "must be true or false")

    value = fields.get(own)
    texts = value if isinstance(value, list) and own == "input" else [value]
    if not all(isinstance(text, str) for text in texts):
        raise FieldError(own, "must be a text" + (", or a list of texts" if own == "input" else ""))
    try:
        return embedded_texts({"input": texts or None})
    except FieldError as error:
        raise _renamed(error, {"input": own}) from error


def _renamed(error: FieldError, names: Mapping[str, str]) -> FieldError:
    """Return an error under the name that the field has in Ollama's API."""
    return FieldError(names.get(error.field, error.field), error.problem, code=error.code)
