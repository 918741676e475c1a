"""Tool calls in a conversation: how a template shows them, how one is written, how it is read back.

The board and the training of a model meet here: an example that was trained on, the grammar that
holds an answer to its tools, and the reader of that answer agree byte by byte. Which markup a chat
template speaks is found by rendering a call with it, never by its name. A template that shows no
tools gets plain texts: Hermes' markup, written by us into the instructions. Standard library only.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from device.manifest.braces import ToJson
from device.manifest.markups import (
    GENERIC,
    GENERIC_IN_QUESTION,
    ID,
    ID_CHARS,
    NATIVE,
    Markup,
    Message,
    short_id,
)

Render = Callable[[Sequence[Message], "Sequence[Message] | None"], str]
"""Renders messages and tools with a chat template; raises any error if the template refuses."""


def has_tools(messages: Sequence[Message], tools: Sequence[Message] = ()) -> bool:
    """Return whether a conversation has tools, calls or results of them."""
    return bool(tools) or any(
        each.get("role") == "tool" or each.get("tool_calls") for each in messages
    )


INTRODUCTION = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    "{tools}\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)
"""Instructions for a template that shows no tools: the words of Qwen2.5's and Hermes' templates."""
_RESULT = "<tool_response>\n{}\n</tool_response>"


_PROBE = "probe_the_board"
_PROBE_CALL = {
    "id": "call00000",  # nine letters or digits, as Mistral's templates ask
    "type": "function",
    "function": {"name": _PROBE, "arguments": {"probe_key": "probe value"}},
}
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "Probe.",
        "parameters": {
            "type": "object",
            "properties": {"probe_key": {"type": "string", "description": "A key."}},
            "required": ["probe_key"],
        },
    },
}
_QUESTION = {"role": "user", "content": "Probe?"}


def shown_tool(function: Mapping[str, Any]) -> Message:
    """Return a tool as templates show it: `parameters` is there, `strict` and nulls are not."""
    given = {name: each for name, each in function.items() if each is not None}
    given.pop("strict", None)
    parameters = given.pop("parameters", {})
    whole = {"type": "object", **({} if parameters else {"properties": {}}), **parameters}
    return {"type": "function", "function": {**given, "parameters": whole}}


def markup_of(render: Render) -> Markup:
    """Return the markup that a template speaks, found by rendering a call with it."""
    asked: list[Message] = [_QUESTION]
    called: list[Message] = [
        _QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]},
        {"role": "tool", "content": "probe result", "tool_call_id": "call00000", "name": _PROBE},
    ]
    shown = _tried(render, asked, [_PROBE_TOOL])
    history = _tried(render, called, [_PROBE_TOOL])

    if _PROBE in shown and "probe result" in history:
        for markup in NATIVE:
            if markup.calls([_PROBE_CALL]) in history:
                return markup

    instructed = [{"role": "system", "content": "probe instructions"}, _QUESTION]
    takes_system = "probe instructions" in _tried(render, instructed, None)
    return GENERIC if takes_system else GENERIC_IN_QUESTION


def _tried(render: Render, messages: Sequence[Message], tools: "Sequence[Message] | None") -> str:
    """Return what a template makes of a conversation; empty if it refuses."""
    try:
        return render(messages, tools)
    except Exception:  # a template may fail in any way, and failing is the answer
        return ""


def for_template(
    markup: Markup, messages: Sequence[Message], tools: Sequence[Message]
) -> "tuple[list[Message], list[Message] | None]":
    """Return messages and tools as they are handed to a template.

    A template that shows calls gets them as they are; another one gets plain texts.
    """
    if markup.native:
        shown = _one_by_one(messages, markup)
        if markup.has_ids:
            shown = _with_short_ids(shown)
        if markup.quote:
            shown = _with_names(shown)
        return list(shown), list(tools) or None
    return _plain(messages, tools, markup), None


def _one_by_one(messages: Sequence[Message], markup: Markup) -> Iterator[Message]:
    """Yield messages, calls of one answer apart where the template takes only one."""
    for message in messages:
        calls = message.get("tool_calls") or ()
        if markup.several or len(calls) < 2:
            yield message
            continue
        yield from ({**message, "tool_calls": [call]} for call in calls)


def _with_short_ids(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages whose calls have ids that the template takes."""
    for message in messages:
        calls = message.get("tool_calls")
        if calls:
            short = [{**each, "id": short_id(str(each.get("id", "")))} for each in calls]
            yield {**message, "tool_calls": short}
        elif message["role"] == "tool":
            yield {**message, "tool_call_id": short_id(str(message.get("tool_call_id", "")))}
        else:
            yield message


def _with_names(messages: Iterable[Message]) -> Iterator[Message]:
    """Yield messages whose results name their function: Google's templates ask for it."""
    names: dict[str, str] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[str(call.get("id"))] = call["function"]["name"]
        if message["role"] == "tool" and not message.get("name"):
            name = names.get(str(message.get("tool_call_id")), "unknown")
            message = {**message, "name": name}
        yield message


def _plain(messages: Sequence[Message], tools: Sequence[Message], markup: Markup) -> list[Message]:
    """Return messages without calls and results, their texts written into the turns."""
    turns: list[dict[str, Any]] = []
    follows_result = False
    for message in messages:
        turn = _as_text(message, markup)
        is_result = message["role"] == "tool"
        # Templates that ask for alternating turns take no user's turn after a user's turn.
        if follows_result and turn["role"] == "user":
            turns[-1]["content"] += f"\n{turn['content']}"
        else:
            turns.append(turn)
        follows_result = is_result or (follows_result and turn["role"] == "user")

    return list(_introduced(turns, tools, markup))


def _as_text(message: Message, markup: Markup) -> dict[str, Any]:
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": _RESULT.format(content)}

    calls = message.get("tool_calls")
    if calls:
        texts = [content, markup.calls(calls)]
        return {"role": message["role"], "content": "\n".join(filter(None, texts))}

    return {"role": message["role"], "content": content}


def _introduced(
    turns: list[dict[str, Any]], tools: Sequence[Message], markup: Markup
) -> list[dict[str, Any]]:
    """Return turns with the description of the tools in the instructions or the first question."""
    if not tools:
        return turns

    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = INTRODUCTION.format(tools=listed)
    if markup.in_question:
        first = next((n for n, turn in enumerate(turns) if turn["role"] == "user"), None)
        if first is None:
            return [{"role": "user", "content": text}, *turns]
        asked = {**turns[first], "content": f"{text}\n\n{turns[first]['content']}"}
        return [*turns[:first], asked, *turns[first + 1 :]]

    if turns and turns[0]["role"] == "system":
        own = turns[0]["content"]
        return [{"role": "system", "content": f"{own}\n\n{text}" if own else text}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


@dataclass
class Piece:
    """A part of an answer: text of its own, or a part of one call."""

    text: str = ""
    call: "int | None" = None
    """Number of the call in its answer; None for text."""
    name: str = ""
    """Function that is called; only with the first part of a call."""
    id: str = ""
    """Name of the call; only with its first part."""


class Reader:
    """Reads the calls out of an answer while it comes.

    The grammar has held the answer to the markup, so nothing is healed here: text that begins as a
    call is one.
    """

    def __init__(self, markup: Markup) -> None:
        self._markup = markup
        self._open = markup.opening
        """Text with which the next call begins."""
        self._rest = ""
        """Text that came and was not handed on."""
        self._step: Callable[[], Iterator[Piece]] = self._outside
        self._began = False
        """Whether text was handed on."""
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._to_json = ToJson(markup.quote)
        """Reads the arguments of a call where they are no JSON."""
        self.calls = 0
        """Number of calls that have begun."""

    def feed(self, text: str) -> list[Piece]:
        """Return the parts that this text completes."""
        self._rest += text
        pieces: list[Piece] = []
        while True:
            step, before = self._step, self._rest
            pieces += step()
            if self._step == step and self._rest == before:
                return [piece for piece in pieces if piece.text or piece.name]

    def end(self, *, cut: bool) -> list[Piece]:
        """Return the text that was held back: the answer is over, or was `cut` at its length.

        What a call began with is no text. It is a beginning if the trigger is whole, for nothing
        but a call can follow one; if a call came before; and in an answer that was cut.
        """
        rest, self._rest = self._rest, ""
        if self._step != self._outside or self.calls:
            return []
        begun = _may_open(rest, self._open) if self._may_begin(rest) else 0
        if begun and (cut or begun >= len(self._markup.trigger)):
            rest = rest[:-begun].rstrip("\n")
            rest = rest if self._began or rest.strip() else ""
        return [Piece(rest)] if rest else []

    def _outside(self) -> Iterator[Piece]:
        """Hand on text up to the next call."""
        found = self._rest.find(self._open) if self._may_begin(self._rest) else -1
        if found >= 0:
            text = self._rest[:found].rstrip("\n") if not self.calls else ""
            text = text if self._began or text.strip() else ""
            self._rest = self._rest[found + len(self._open) :]
            self._step = self._named
            self._began = self._began or bool(text)
            yield Piece(text)
            return

        keep = _may_open(self._rest, self._open) if self._may_begin(self._rest) else 0
        text = self._rest[: len(self._rest) - keep]
        # Line breaks between a text and its calls belong to the markup, and so does any space
        # before the first text.
        shown = text.rstrip("\n") if self._began else text.rstrip()
        self._rest = self._rest[len(shown) :]
        self._began = self._began or bool(shown.strip())
        yield Piece(shown)

    def _may_begin(self, rest: str) -> bool:
        """Say whether a call may begin in the text that waits to be handed on."""
        if self._markup.anywhere:
            return True
        return not self._began and rest.lstrip().startswith(self._open[: len(rest.lstrip())])

    def _named(self) -> Iterator[Piece]:
        """Read the name of a call, and its id where that stands before the arguments."""
        before, _, after = self._markup.middle.partition(ID)
        name, found, rest = self._rest.partition(before or "{")
        rest = rest if before else f"{{{rest}"
        more = ID_CHARS + len(after) if after else 0
        if found and len(rest) >= more:
            self._rest = rest[more:]
            self._step = self._braces if self._markup.quote else self._arguments
            self._to_json = ToJson(self._markup.quote)
            self._depth = 0
            self.calls += 1
            yield Piece(call=self.calls - 1, name=name, id=f"call_{secrets.token_hex(12)}")

    def _arguments(self) -> Iterator[Piece]:
        """Hand on the JSON of the arguments up to its end."""
        for at, character in enumerate(self._rest):
            if self._closes(character):
                text, self._rest = self._rest[: at + 1], self._rest[at + 1 :]
                self._step = self._closing
                yield Piece(text, self.calls - 1)
                return

        text, self._rest = self._rest, ""
        yield Piece(text, self.calls - 1)

    def _braces(self) -> Iterator[Piece]:
        """Hand on arguments that are no JSON, as JSON."""
        text, self._rest = self._to_json.feed(self._rest)
        if self._to_json.is_over:
            self._step = self._closing
        yield Piece(text, self.calls - 1)

    def _closes(self, character: str) -> bool:
        """Follow one character of JSON; return whether the outermost object ends with it."""
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = False
            return False

        if character == '"':
            self._quoted = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return self._depth == 0
        return False

    def _closing(self) -> Iterator[Piece]:
        """Read the text after the arguments."""
        end = self._markup.end.replace(ID, ID * ID_CHARS)
        if len(self._rest) >= len(end):
            self._rest = self._rest[len(end) :]
            self._open = self._markup.reopening
            self._step = self._outside
            if self._markup.last:
                self._open = self._markup.between + self._open
                self._step = self._ending
        return iter(())

    def _ending(self) -> Iterator[Piece]:
        """Read the text after the last call, if this was it."""
        last = self._markup.last
        if len(self._rest) >= len(last):
            self._rest = self._rest.removeprefix(last)
            self._step = self._outside
        return iter(())


def _may_open(text: str, opening: str) -> int:
    """Return the length of the longest end of `text` with which a call may begin."""
    longest = min(len(text), len(opening) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(opening[:n])), 0)


def read_calls(text: str, markup: Markup, *, cut: bool) -> "tuple[str, list[Message]]":
    """Return the text of an answer without its calls, and the calls.

    The arguments are a text of JSON, as OpenAI's API gives them. A call that was `cut` off keeps
    the part that came, from its name on.
    """
    reader = Reader(markup)
    content = ""
    calls: list[dict[str, Any]] = []
    for piece in [*reader.feed(text), *reader.end(cut=cut)]:
        if piece.call is None:
            content += piece.text
        elif piece.name:
            function = {"name": piece.name, "arguments": piece.text}
            calls.append({"id": piece.id, "type": "function", "function": function})
        else:
            calls[piece.call]["function"]["arguments"] += piece.text

    return content, list(calls)
