"""Requests of /v1/responses, turned into the fields of a conversation and read by api.py.

The rule to keep: nothing that a client sends is dropped in silence. A field has a field of
/v1/chat/completions in its place, or asks for what happens anyway, or is refused by its own name.
Nothing is stored: each request brings its whole history (responses_input.py). Names and defaults:
OpenAI's reference of the Responses API. Standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device.engine.base import FieldError, whole
from device.serve.api import IGNORED, Question, chat_question
from device.serve.fields import is_one_of, not_null
from device.serve.responses_input import Conversation, read_input

_SAME = (
    *("temperature", "top_p", "top_logprobs", "stream", "parallel_tool_calls", "service_tier"),
    *("top_k", "min_p", "seed"),  # not OpenAI's here, but taken as in a conversation
)
DIRECT = {**{name: name for name in _SAME}, "max_output_tokens": "max_tokens"}
"""Field → the field of a conversation that has its value."""
OWN = (
    *("input", "instructions", "text", "reasoning", "tools", "tool_choice", "include"),
    *("metadata", "stream_options", "max_tool_calls"),
)
"""Fields that are read here."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "store": (False,),
    "truncation": ("disabled",),
}
"""Fields without effect here → their no-op values; null is one for every field."""
INSTEAD = {
    "conversation": "nothing is stored: send the turns before in `input`",
    "previous_response_id": "nothing is stored: send the turns before in `input`",
    "store": "nothing is stored: leave it out or at false",
    "background": "nothing is stored: leave it out or at false",
    "truncation": "an input that is too long is refused, never cut",
    "prompt": "nothing is stored: send `instructions` and `input`",
}
"""Field that is refused → what to do in its place."""
CHAT_NAMES = {
    "functions": "`tools`",
    "max_completion_tokens": "`max_output_tokens`",
    "max_tokens": "`max_output_tokens`",
    "messages": "`input`",
    "reasoning_effort": "`reasoning.effort`",
    "response_format": "`text.format`",
    "verbosity": "`text.verbosity`",
}
"""Field of /v1/chat/completions → what this API has in its place."""
TAKEN = frozenset(IGNORED) - {"metadata"}
"""Fields that may have any value."""
LOGPROBS = "message.output_text.logprobs"
INCLUDED = (
    *("code_interpreter_call.outputs", "computer_call_output.output.image_url"),
    *("file_search_call.results", "message.input_image.image_url", LOGPROBS),
    *("reasoning.encrypted_content", "web_search_call.action.sources", "web_search_call.results"),
)
"""Values of `include`. All but the log-probabilities are of things that no answer here has."""
_SUMMARIES = ("auto", "concise", "detailed")
_TOOL_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
}
"""Fields of a function without effect here → their no-op values."""
_MAX_PAIRS, _MAX_NAME, _MAX_VALUE = 16, 64, 512
"""OpenAI's bounds of `metadata`: pairs, and characters of a name and of a value."""
_NAMES = {
    **{known: name for name, known in DIRECT.items()},
    "logprobs": "include",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}
"""Field of a conversation → its name in this API."""


@dataclass(frozen=True)
class Asked:
    """A request: its question, and the fields that a reply shows again."""

    question: Question
    shown: Mapping[str, Any]


def read_response(given: Mapping[str, Any], default_max_tokens: int) -> Asked:
    """Return what a request asks for; raise FieldError."""
    fields = _known(given)
    conversation = read_input(fields.get("input"), fields.get("instructions", ""))
    asked = {
        "messages": list(conversation.messages),
        **{known: fields[name] for name, known in DIRECT.items() if name in fields},
        **_reasoning(fields.get("reasoning", {})),
        **_text(fields.get("text", {})),
        **_included(fields),
        **_tools(fields),
    }
    try:
        question = chat_question(asked, default_max_tokens)
    except FieldError as error:
        raise renamed(error, conversation) from error
    return Asked(question, _shown(fields, question))


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null; raise FieldError if one cannot be honoured."""
    fields = not_null(given)
    for name, value in fields.items():
        if name in NEUTRAL and not is_one_of(value, NEUTRAL[name]):
            problem = INSTEAD.get(name, "leave it out")
            raise FieldError(name, f"is not supported here; {problem}", code="unsupported")
        if name in CHAT_NAMES:
            problem = f"is a field of /v1/chat/completions, here it is {CHAT_NAMES[name]}"
            raise FieldError(name, problem, code="unknown_field")
        if name not in {*DIRECT, *OWN, *NEUTRAL, *TAKEN}:
            raise FieldError(name[:80], "is not a field of this request", code="unknown_field")

    _check_metadata(fields.get("metadata", {}))
    options = fields.get("stream_options", {})
    options = not_null(options) if isinstance(options, dict) else {"": options}
    hides = options.pop("include_obfuscation", False)
    if options or not isinstance(hides, bool):
        raise FieldError("stream_options", "must be an object with `include_obfuscation` alone")

    calls = whole(fields.get("max_tool_calls", 1))
    if type(calls) is not int or calls < 1:
        raise FieldError("max_tool_calls", "must be a whole number from 1 on")
    return fields


def _check_metadata(value: Any) -> None:
    """Raise FieldError for what OpenAI's API does not take: it comes back in the reply."""
    fits = isinstance(value, dict) and len(value) <= _MAX_PAIRS
    if not fits or not all(
        isinstance(text, str) and len(text) <= _MAX_VALUE and len(name) <= _MAX_NAME
        for name, text in value.items()
    ):
        problem = (
            f"must be an object of at most {_MAX_PAIRS} texts of at most {_MAX_VALUE} characters, "
            f"with names of at most {_MAX_NAME}"
        )
        raise FieldError("metadata", problem)


def _object(value: Any, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of an object that are not null; raise FieldError if one is unknown."""
    if not isinstance(value, dict):
        raise FieldError(name, "must be an object")
    fields = not_null(value)
    if unknown := set(fields) - set(known):
        place = f"{name}.{min(unknown)}"[:120]
        raise FieldError(place, "is not a field of this request", code="unknown_field")
    return fields


def _reasoning(value: Any) -> dict[str, Any]:
    """Return the effort; a summary is taken, for there is nothing to sum up."""
    fields = _object(value, "reasoning", ("effort", "summary", "generate_summary"))
    for name in ("summary", "generate_summary"):
        if fields.get(name, "auto") not in _SUMMARIES:
            raise FieldError(f"reasoning.{name}", f"must be one of {', '.join(_SUMMARIES)}")
    return {"reasoning_effort": fields["effort"]} if "effort" in fields else {}


def _text(value: Any) -> dict[str, Any]:
    """Return the form of the answer, and how long-winded it may be."""
    fields = _object(value, "text", ("format", "verbosity"))
    asked = {"verbosity": fields["verbosity"]} if "verbosity" in fields else {}
    if "format" not in fields:
        return asked

    form = not_null(fields["format"]) if isinstance(fields["format"], dict) else fields["format"]
    if isinstance(form, dict) and form.get("type") == "json_schema":
        if "schema" not in form:
            raise FieldError("text.format", "`json_schema` needs a `schema`")
        form = {"type": "json_schema", "json_schema": {**form, "type": None}}
    return {**asked, "response_format": form}


def _included(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether log-probabilities are asked for; raise FieldError."""
    wanted = fields.get("include", [])
    if not isinstance(wanted, list):
        raise FieldError("include", "must be a list of texts")
    for each in wanted:
        if each not in INCLUDED:
            problem = f"`{str(each)[:80]}` is none of {', '.join(INCLUDED)}"
            raise FieldError("include", problem)
    return {"logprobs": LOGPROBS in wanted or bool(fields.get("top_logprobs"))}


def _tools(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tools and the choice among them, in a conversation's form."""
    asked: dict[str, Any] = {}
    if "tools" in fields:
        tools = fields["tools"]
        if not isinstance(tools, list):
            raise FieldError("tools", "must be a list of tools")
        asked["tools"] = [_tool(each, f"tools[{n}]") for n, each in enumerate(tools)]
    if "tool_choice" in fields:
        asked["tool_choice"] = _choice(fields["tool_choice"])
    return asked


def _tool(value: Any, where: str) -> dict[str, Any]:
    """Return a function in a conversation's form; a tool that the provider executes is refused."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise FieldError(where, 'must be an object with `type` "function"')
    if kind != "function":
        problem = f"`{kind[:80]}` is a tool of the provider; functions alone are here"
        raise FieldError(f"{where}.type", problem, code="unsupported")

    function = not_null(value)
    del function["type"]
    if "function" in function:
        problem = "is the form of /v1/chat/completions, here its fields stand beside `type`"
        raise FieldError(f"{where}.function", problem, code="unknown_field")
    for name, neutral in _TOOL_NEUTRAL.items():
        given = function.pop(name, neutral[0])
        if not is_one_of(given, neutral):
            raise FieldError(f"{where}.{name}", "is not supported here", code="unsupported")
    return {"type": "function", "function": function}


def _choice(value: Any) -> Any:
    """Return a choice of tools in a conversation's form."""
    if value in ("none", "auto", "required"):
        return value

    fields = value if isinstance(value, dict) else {}
    kind, name = fields.get("type"), fields.get("name")
    if isinstance(kind, str) and kind != "function":
        problem = f"`{kind[:80]}` is not supported here, a function by its name is"
        raise FieldError("tool_choice", problem, code="unsupported")
    if kind is None or not isinstance(name, str) or set(fields) - {"type", "name"}:
        problem = 'must be `none`, `auto`, `required` or {"type": "function", "name": …}'
        raise FieldError("tool_choice", problem)
    return {"type": "function", "function": {"name": name}}


def renamed(error: FieldError, conversation: "Conversation | None" = None) -> FieldError:
    """Return an error under the name that the field has in this API."""
    problem = error.problem.replace("`json_schema.", "`")
    field = error.field
    if field.startswith("messages") and conversation:
        field = conversation.place(field)
    elif field.startswith("tools["):
        field = field.replace("].function.", "].")
    return FieldError(_NAMES.get(field, field), problem, code=error.code)


def _shown(fields: Mapping[str, Any], question: Question) -> dict[str, Any]:
    """Return the fields that a reply shows again, with the values that counted."""
    reasoning = {"effort": None, "summary": None, **fields.get("reasoning", {})}
    text = fields.get("text", {})
    function = {"description": None, "parameters": None, "strict": None}
    return {
        "background": False,
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "max_tool_calls": fields.get("max_tool_calls"),
        "metadata": fields.get("metadata", {}),
        "parallel_tool_calls": fields.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": reasoning,
        "service_tier": "default",
        "store": False,
        "temperature": question.sampling.temperature,
        "text": {**text, "format": text.get("format") or {"type": "text"}},
        "tool_choice": fields.get("tool_choice", "auto"),
        "tools": [{**function, **tool} for tool in fields.get("tools", [])],
        "top_logprobs": question.sampling.top_logprobs or 0,
        "top_p": question.sampling.top_p,
        "truncation": "disabled",
        "user": fields.get("user"),
    }
