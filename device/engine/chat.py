"""A chat template, rendered as transformers renders it and as the model was trained.

The settings are those of transformers' `utils/chat_template_utils.py`. The sandbox keeps a template
from running code (CVE-2024-34359). A template was checked on the host within limits, and is signed
with the bundle.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from device.errors import DeviceError
from device.manifest.markups import Markup
from device.manifest.tool_calls import for_template, has_tools, markup_of

_PROBE = "probe the board"


class _Generation(Extension):
    """Tag `{% generation %}…{% endgeneration %}`, which marks answers for training.

    Here its contents are rendered.
    """

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> "list[nodes.Node]":
        """Return the statements inside the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A compiled template, and the special tokens that it may name."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], picture_marker: str = ""
    ) -> None:
        """`picture_marker` stands for a picture in contents, of a model that sees."""
        room = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        room.filters["tojson"] = _to_json
        room.globals.update(raise_exception=_refuse, strftime_now=_now)
        self._special_tokens = dict(special_tokens)
        self._marker = picture_marker

        try:
            self._template = room.from_string(source)
        except TemplateSyntaxError as error:
            raise DeviceError(
                "bad_model", f"the chat template is broken at line {error.lineno}: {error.message}"
            ) from error

    @cached_property
    def markup(self) -> Markup:
        """How this template writes calls of tools."""
        return markup_of(self._rendered)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        now: "datetime.datetime | None" = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Return the text of a conversation up to the place where the assistant begins.

        `now` is the time that the template is told; by default the clock's. Raise DeviceError if
        the template refuses the conversation.
        """
        if not has_tools(messages, tools):
            return self._rendered(messages, None, now)
        return self._rendered(*for_template(self.markup, messages, tools), now)

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: "Sequence[Mapping[str, Any]] | None",
        now: "datetime.datetime | None" = None,
    ) -> str:
        in_parts = self._marker or self._takes_parts
        given = [self._in_parts(each) if in_parts else dict(each) for each in messages]
        return self._filled(given, tools, now)

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether it shows contents in parts alone: a model that sees, without its projector."""

        def shows(content: Any) -> bool:
            """Say whether what was said comes out."""
            try:
                return _PROBE in self._filled([{"role": "user", "content": content}], None)
            except DeviceError:
                return False

        return not shows(_PROBE) and shows([{"type": "text", "text": _PROBE}])

    def _filled(
        self,
        messages: "list[dict[str, Any]]",
        tools: "Sequence[Mapping[str, Any]] | None",
        now: "datetime.datetime | None" = None,
    ) -> str:
        clock = {"strftime_now": now.strftime} if now else {}
        try:
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
                **clock,
            )
        except (
            TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            message = f"the model's chat template does not take this conversation: {error}"
            raise DeviceError("bad_conversation", message, status=400) from error

    def _in_parts(self, message: Mapping[str, Any]) -> "dict[str, Any]":
        """Return a message whose content is a list of parts, texts and pictures."""
        content = str(message.get("content") or "")
        first, *texts = content.split(self._marker) if self._marker else [content]
        parts: "list[dict[str, str]]" = [{"type": "text", "text": first}]
        for text in texts:
            parts += [{"type": "image"}, {"type": "text", "text": text}]
        shown = [part for part in parts if part.get("text") != ""]
        return {**message, "content": shown or parts}


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: "int | None" = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)
