"""Conversations to token ids through the tokenizer's chat template, for training and the gate.

The one rule: a model is trained on exactly the ids that it will see when it is asked, so the prompt
as it is rendered for the last answer must be the beginning of the conversation as it is rendered
with it.

Where an answer lies is found in the very text that is learned, by rendering the conversation once
more with a mark in the answer's place: templates render a last answer otherwise than an earlier one
(`<think>` blocks are taken out of history), trim texts, and repeat end tokens, so that no other
rendering tells.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from device.manifest.markups import GENERIC, Markup
from device.manifest.moment import RENDERED_AT, moment
from device.manifest.pictures import PICTURE
from device.manifest.tool_calls import for_template, has_tools, markup_of
from toolchain.errors import ArtifactError
from toolchain.models.sights import sight_of_tokenizer
from toolchain.models.template import MARK, first_token, in_parts

IGNORED = -100
"""Label of a position that is not learned (torch.nn.functional.cross_entropy's ignore_index)."""

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


# Callers that drop long conversations catch it.
class TooLong(ArtifactError):  # noqa: N818 - a name, not a suffix
    """A conversation that has more tokens than allowed."""


class Refused(ArtifactError):  # noqa: N818 - as above: a plan catches it and names the line
    """A conversation that the chat template refuses, or in which the answers cannot be found."""


def encode(
    tokenizer: Any, messages: Messages, max_tokens: int, opening: int = 0, tools: Tools = ()
) -> tuple[list[int], list[int]]:
    """Return (ids, labels) of a conversation.

    Labels are the ids of each answer with its end token, IGNORED elsewhere.

    Answers in the first `opening` messages, with which every conversation begins, are not learned,
    nor is an answer that nobody asked for. What a template writes after the last answer's end token
    is cut off; where it writes no end token, the tokenizer's own is learned. Raises TooLong, and
    Refused for a conversation or template that cannot be learned from.
    """
    # The tools' description may stand before the opening, so its answers are counted, not placed.
    known = len(_answers(messages[:opening]))
    messages, tools, markup = _shown(tokenizer, messages, tools)
    answers = _answers(messages)
    talk = _Talk(tokenizer, messages[: answers[-1] + 1] if answers else messages, tools, markup)
    text = talk.render()
    _check_length(tokenizer, text, max_tokens)
    spans = [_find_answer(talk, number, text) for number in answers[known:] if number]
    ids, labels = _label(tokenizer, text, spans)

    if len(ids) > max_tokens:
        raise TooLong(f"conversation: {len(ids)} tokens, {max_tokens} are allowed")
    return ids, labels


def encode_row(
    tokenizer: Any, row: Mapping[str, Any], max_tokens: int
) -> tuple[list[int], list[int]]:
    """Return (ids, labels) of a conversation of a data set, its tools in the prompt."""
    opening, tools = row.get("opening", 0), row.get("tools", ())
    return encode(tokenizer, row["messages"], max_tokens, opening, tools)


def render_prompt(tokenizer: Any, messages: Messages, tools: Tools = ()) -> list[int]:
    """Return the ids after which the model answers."""
    return _tokens(tokenizer, rendered(tokenizer, messages, tools, prompt=True))


def rendered(tokenizer: Any, messages: Messages, tools: Tools = (), *, prompt: bool = False) -> str:
    """Return a conversation as text; with `prompt`, up to where the assistant begins."""
    messages, tools, _ = _shown(tokenizer, messages, tools)
    return _render(tokenizer, messages, tools, add_generation_prompt=prompt)


@contextmanager
def fixed_clock() -> Iterator[None]:
    """Give RENDERED_AT as the time to chat templates that ask transformers for it.

    The board is given the same time where prompts are compared.
    """
    from transformers.utils import chat_template_utils

    class Stopped:
        @staticmethod
        def now() -> datetime:
            return moment(RENDERED_AT)

    # transformers gives a template no other clock: of what a caller hands it, only plain values
    # reach it.
    module: Any = chat_template_utils
    clock = module.datetime
    module.datetime = Stopped
    try:
        yield
    finally:
        module.datetime = clock


def shown_to(tokenizer: Any, messages: Messages, tools: Tools) -> tuple[Messages, Tools]:
    """Return messages and tools as the board hands them to the template."""
    messages, tools, _ = _shown(tokenizer, messages, tools)
    return messages, tools


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Characters of a rendered conversation that the assistant said."""

    number: int
    """Which message it is."""
    start: int
    end: int
    """After the end token, or after the answer's text where the template writes none."""
    ended: bool
    """Whether an end token is among them."""


@dataclass(frozen=True, slots=True)
class _Talk:
    """A conversation as its template gets it."""

    tokenizer: Any
    messages: Messages
    tools: Tools
    markup: Markup

    def render(self) -> str:
        """Return the text of the whole conversation."""
        return _render(self.tokenizer, self.messages, self.tools)

    def prompt(self, number: int) -> str:
        """Return the text up to where message `number` begins."""
        before = self.messages[:number]
        return _render(self.tokenizer, before, self.tools, add_generation_prompt=True)

    def around(self, number: int) -> tuple[str, str]:
        """Return what the template writes before and after the text of a message."""
        # A call is marked as any text is: the mark stands where its markup does.
        given = {**self.messages[number], "content": MARK}
        given.pop("tool_calls", None)
        marked = [*self.messages[:number], given, *self.messages[number + 1 :]]
        parts = _render(self.tokenizer, marked, self.tools).split(MARK)
        if len(parts) != 2:
            raise _untold(number, f"the template shows an answer {len(parts) - 1} times")
        return parts[0], parts[1]


def _shown(tokenizer: Any, messages: Messages, tools: Tools) -> tuple[Messages, Tools, Markup]:
    """Return messages and tools as the template gets them on the board, and its markup of calls."""
    if not has_tools(messages, tools):
        return messages, (), GENERIC
    markup = markup_of_tokenizer(tokenizer)
    shown, given = for_template(markup, messages, tools)
    return shown, given or (), markup


def markup_of_tokenizer(tokenizer: Any) -> Markup:
    """Return how a tokenizer's chat template writes calls of tools."""
    return _markup(tokenizer, str(tokenizer.chat_template))


def _check_length(tokenizer: Any, text: str, max_tokens: int) -> None:
    """Raise TooLong for a text that no vocabulary makes short enough: it need not be read."""
    least = len(text) // _longest_token(tokenizer)
    if least > max_tokens:
        raise TooLong(f"conversation: at least {least} tokens, {max_tokens} are allowed")


@lru_cache(maxsize=8)
def _longest_token(tokenizer: Any) -> int:
    """Return the characters of the longest token; a token of bytes has fewer than it shows."""
    return max(map(len, tokenizer.get_vocab()))


@lru_cache(maxsize=8)
def _markup(tokenizer: Any, template: str) -> Markup:
    def render(messages: Messages, tools: Tools | None) -> str:
        return _render(tokenizer, messages, tools or (), add_generation_prompt=True)

    return markup_of(render)


def _answers(messages: Messages) -> list[int]:
    """Return which messages are the assistant's."""
    return [number for number, each in enumerate(messages) if each["role"] == "assistant"]


def _find_answer(talk: _Talk, number: int, text: str) -> _Span:
    """Return where message `number` lies in `text`, the rendering of the conversation."""
    last = number == len(talk.messages) - 1
    before, after = talk.around(number)
    if not text.endswith(after):
        raise _untold(number, "what follows the answer depends on the answer")

    prompt = talk.prompt(number)
    if text.startswith(prompt):
        start = len(prompt)
    elif text.startswith(before) and not last:
        # An earlier answer is rendered without what its own prompt ended with (`<think>`): it is
        # learned as history shows it.
        start = len(before)
    else:
        raise _untold(number, "the prompt is not how the conversation begins")

    said = len(text) - len(after)
    if said < start:
        raise _untold(number, "the prompt ends behind the beginning of the answer")
    calls = talk.messages[number].get("tool_calls")
    if calls and not text[start:said].endswith(talk.markup.calls(calls)):
        raise _untold(number, "a call is not written as the board reads it")
    token = _end_token(talk, after, last=last)
    end = said + after.index(token) + len(token) if token else said
    return _Span(number=number, start=start, end=end, ended=bool(token))


def _end_token(talk: _Talk, after: str, *, last: bool) -> str:
    """Return the token that ends an answer, from the text behind it; empty if there is none."""
    added = [token.content for token in talk.tokenizer.added_tokens_decoder.values()]
    token = first_token(after, added)
    if last or not token:
        return token

    # Behind an earlier answer the first token may be the beginning of the next message: only one
    # that ends answers counts.
    _, behind_last = talk.around(len(talk.messages) - 1)
    ends = {first_token(behind_last, added), talk.tokenizer.eos_token}
    return token if token in ends else ""


def _label(tokenizer: Any, text: str, spans: Sequence[_Span]) -> tuple[list[int], list[int]]:
    """Return ids and labels of a rendered conversation up to the end of the last span."""
    ids = _tokens(tokenizer, text[: spans[-1].end] if spans else text)
    labels = [IGNORED] * len(ids)
    for span in spans:
        start = _tokens(tokenizer, text[: span.start])
        if ids[: len(start)] != start:
            raise _untold(span.number, "its first token begins in the prompt")
        end = _common(ids, _tokens(tokenizer, text[: span.end]))
        if end <= len(start):
            raise _untold(span.number, "the answer is empty and nothing ends it")
        labels[len(start) : end] = ids[len(start) : end]

    if spans and not spans[-1].ended:
        if tokenizer.eos_token_id is None:
            raise ArtifactError(
                "chat template: no token ends an answer, and the tokenizer has none either",
                hint="set `eos_token` in tokenizer_config.json",
            )
        ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
    return ids, labels


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _untold(number: int, why: str) -> Refused:
    return Refused(
        f"chat template: message {number + 1}: {why}",
        hint="training needs a template whose prompt is the beginning of the rendered answer, "
        "and that shows each answer once",
    )


@lru_cache(maxsize=8)
def _takes_parts(tokenizer: Any, template: str) -> bool:
    """Say whether a template shows contents in parts alone, as those of models that see do."""
    probe = [{"role": "user", "content": MARK}]

    def shown(messages: Messages) -> bool:
        """Say whether what was said comes out."""
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception:  # a template is a program: what it raises is anything
            return False
        return MARK in text

    return not shown(probe) and shown(in_parts(probe))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _render(
    tokenizer: Any, messages: Messages, tools: Tools = (), *, add_generation_prompt: bool = False
) -> str:
    if not tokenizer.chat_template:
        raise ArtifactError(
            "tokenizer: no chat template",
            hint="use an instruct model, or put chat_template.jinja beside it",
        )
    if not messages:
        return ""
    given = [dict(message) for message in messages]
    shows = any(PICTURE in message for message in messages)
    if shows or _takes_parts(tokenizer, str(tokenizer.chat_template)):
        given = in_parts(given)
    try:
        with fixed_clock():
            text = tokenizer.apply_chat_template(
                given,
                tools=list(tools) or None,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
    except Exception as error:  # a template is a program: what it raises is anything
        raise Refused(f"chat template: {error}") from error
    sight = sight_of_tokenizer(tokenizer) if shows else None
    if sight is None:
        return str(text)
    # A line end around a picture may be one token with that of the template: it comes first.
    return str(text).replace(sight.marker, sight.before + sight.place + sight.behind)
