"""The tools of a request: read strictly, and turned into the grammar of their calls.

Nothing is executed here: a call goes back to the client. A schema that the grammar cannot hold an
answer to is refused with its tool's name, `strict` or not. Standard library only.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from device.engine.base import FieldError, Sampling, Trigger
from device.manifest.markups import HERMES, Markup, Message
from device.manifest.tool_calls import shown_tool
from device.serve import schema
from device.serve.shapes import BOUNDS

MAX_TOOLS = 128
"""Maximum number of tools in a request, as in OpenAI's API."""
MAX_TOOLS_BYTES = 1 << 16
"""Maximum size of all descriptions and schemas together, as JSON."""
MAX_CALLS = 8
"""Maximum number of calls in one answer."""
FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_BOUNDED = {"integer", "number", "pattern", "format", "enum", "const", "multipleOf", *BOUNDS}
_BOUNDED |= {"minLength", "maxLength", "propertyNames", "patternProperties"}
_BOUND = re.compile("|".join(f'"{each}"' for each in sorted(_BOUNDED)))
"""What a schema says where its grammar may change a figure; texts alone are free."""
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
_FUNCTION = {"name": str, "description": str, "parameters": dict, "strict": bool}
"""Fields of a function → their kinds."""


@dataclass(frozen=True)
class Tools:
    """The tools that an answer may call, and whether it must."""

    shown: tuple[Message, ...]
    """Tools as the chat template shows them."""
    callable: tuple[str, ...]
    """Names of the tools that may be called: one of them if the client chose it."""
    must: bool = False
    """Whether the answer is a call, from its first token on."""
    several: bool = True
    """Whether one answer may hold several calls."""
    answer: "schema.Answer | None" = None
    """What an answer without calls is held to; None for any text."""

    def held(self, sampling: Sampling, markup: Markup) -> Sampling:
        """Return how an answer is sampled in a template's markup; raise FieldError."""
        schemas = {
            tool["function"]["name"]: tool["function"]["parameters"]
            for tool in self.shown
            if tool["function"]["name"] in self.callable
        }
        most = MAX_CALLS if self.several and markup.several else 1
        answer = None if self.must else self.answer
        if answer and (not markup.anywhere or markup.quote):
            why = "is no JSON" if markup.quote else "is JSON itself"
            raise FieldError(
                "response_format",
                "cannot hold an answer that may call tools as well: in this model's template a "
                f"call {why}; leave out `tools`",
                code="unsupported",
            )

        whole = self.must or answer is not None
        grammar = schema.calls(schemas, markup, most, whole=whole, answer=answer)
        numbered = any(character.isdigit() for name in schemas for character in name)
        bounded = numbered or bool(_BOUND.search(json.dumps(schemas)))
        trigger = Trigger(
            markup.trigger, markup.head, markup.anywhere, bounded, before_id=markup.before_id
        )
        return replace(
            sampling, grammar=grammar, trigger=None if whole else trigger, calls_tools=True
        )


def read_tools(fields: Mapping[str, Any], answer: "schema.Answer | None" = None) -> "Tools | None":
    """Return the tools of a request; None if none may be called. Raise FieldError.

    `answer` is what an answer without calls is held to.
    """
    value = fields.get("tools", [])
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise FieldError("tools", f"must be a list of at most {MAX_TOOLS} tools")

    shown = tuple(_tool(each, f"tools[{number}]") for number, each in enumerate(value))
    names = [tool["function"]["name"] for tool in shown]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FieldError("tools", f"`{twice}` stands there twice")

    size = len(json.dumps(value).encode())
    if size > MAX_TOOLS_BYTES:
        problem = f"has {size:,} bytes of JSON, and at most {MAX_TOOLS_BYTES:,} are read"
        raise FieldError("tools", problem)

    several = fields.get("parallel_tool_calls", True)
    if not isinstance(several, bool):
        raise FieldError("parallel_tool_calls", "must be true or false")

    chosen = _chosen(fields.get("tool_choice", "auto"), shown)
    return _checked(replace(chosen, several=several, answer=answer)) if chosen else None


def _chosen(choice: Any, shown: tuple[Message, ...]) -> "Tools | None":
    """Return the tools with the client's choice among them."""
    names = tuple(tool["function"]["name"] for tool in shown)
    if choice in ("none", "auto", "required"):
        if choice == "required" and not shown:
            raise FieldError("tool_choice", "`required` needs `tools`")
        if choice == "none" or not shown:
            return None
        return Tools(shown, names, choice == "required")

    named = choice.get("function", {}) if _is_function(choice) else None
    name = named.get("name") if isinstance(named, dict) else None
    if not isinstance(name, str):
        raise FieldError(
            "tool_choice",
            'must be `none`, `auto`, `required` or {"type": "function", "function": {"name": …}}',
        )
    if name not in names:
        raise FieldError("tool_choice", f"`{name[:80]}` is not among the `tools`")

    return Tools(shown, (name,), must=True)


def _is_function(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "function"


def _checked(tools: Tools) -> Tools:
    """Return the tools if a grammar can be written for each; raise FieldError before the queue."""
    tools.held(Sampling(), HERMES)
    return tools


def _tool(value: Any, where: str) -> Message:
    """Return a tool as templates show it: `parameters` is there, `strict` is not."""
    if not _is_function(value):
        raise FieldError(where, '`type` must be "function": no other tools are here')

    function = value.get("function")
    if set(value) - {"type", "function"} or not isinstance(function, dict):
        raise FieldError(where, "must be an object with `type` and `function` alone")

    given = {name: each for name, each in function.items() if each is not None}
    for name, each in given.items():
        if name not in _FUNCTION:
            place = f"{where}.function.{name}"[:120]
            raise FieldError(place, "is not a field of a function", code="unknown_field")
        if not isinstance(each, _FUNCTION[name]):
            raise FieldError(f"{where}.function.{name}", "is of a wrong kind")

    if not _NAME.fullmatch(given.get("name", "")):
        problem = "must be 1 to 64 letters, digits, `_` and `-`"
        raise FieldError(f"{where}.function.name", problem)

    if given.get("parameters", {}).get("type", "object") != "object":
        raise FieldError(f"{where}.function.parameters", "must be the schema of an object")

    return shown_tool(given)
