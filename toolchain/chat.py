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
from typing import Any

from device.manifest.moment import RENDERED_AT, moment
from toolchain.errors import ArtifactError
from toolchain.models.template import MARK, first_token

IGNORED = -100
"""Label of a position that is not learned (torch.nn.functional.cross_entropy's ignore_index)."""

Messages = Sequence[Mapping[str, str]]


# Callers that drop long conversations catch it.
class TooLong(ArtifactError):  # noqa: N818 - a name, not a suffix
    """A conversation that has more tokens than allowed."""


class Refused(ArtifactError):  # noqa: N818 - as above: a plan catches it and names the line
    """A conversation that the chat template refuses, or in which the answers cannot be found."""


def encode(
    tokenizer: Any, messages: Messages, max_tokens: int, opening: int = 0
) -> tuple[list[int], list[int]]:
    """Return (ids, labels) of a conversation.

    Labels are the ids of each answer with its end token, IGNORED elsewhere.

    Answers in the first `opening` messages, with which every conversation begins, are not learned,
    nor is an answer that nobody asked for. What a template writes after the last answer's end token
    is cut off; where it writes no end token, the tokenizer's own is learned. Raises TooLong, and
    Refused for a conversation or template that cannot be learned from.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    shown = messages[: answers[-1] + 1] if answers else messages
    text = _render(tokenizer, shown)
    spans = [
        _find_answer(tokenizer, shown, number, text)
        for number in answers
        if number >= max(opening, 1)
    ]
    ids, labels = _label(tokenizer, text, spans)

    if len(ids) > max_tokens:
        raise TooLong(f"conversation: {len(ids)} tokens, {max_tokens} are allowed")
    return ids, labels


def render_prompt(tokenizer: Any, messages: Messages) -> list[int]:
    """Return the ids after which the model answers."""
    return _tokens(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))


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


def _find_answer(tokenizer: Any, messages: Messages, number: int, text: str) -> _Span:
    """Return where message `number` lies in `text`, the rendering of `messages`."""
    last = number == len(messages) - 1
    before, after = _around(tokenizer, messages, number)
    if not text.endswith(after):
        raise _untold(number, "what follows the answer depends on the answer")

    prompt = _render(tokenizer, messages[:number], add_generation_prompt=True)
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
    token = _end_token(tokenizer, messages, after, last=last)
    end = said + after.index(token) + len(token) if token else said
    return _Span(number=number, start=start, end=end, ended=bool(token))


def _around(tokenizer: Any, messages: Messages, number: int) -> tuple[str, str]:
    """Return what the template writes before and after the text of a message."""
    marked = [*messages[:number], {**messages[number], "content": MARK}, *messages[number + 1 :]]
    parts = _render(tokenizer, marked).split(MARK)
    if len(parts) != 2:
        raise _untold(number, f"the template shows an answer {len(parts) - 1} times")
    return parts[0], parts[1]


def _end_token(tokenizer: Any, messages: Messages, after: str, *, last: bool) -> str:
    """Return the token that ends an answer, from the text behind it; empty if there is none."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    token = first_token(after, added)
    if last or not token:
        return token

    # Behind an earlier answer the first token may be the beginning of the next message: only one
    # that ends answers counts.
    _, behind_last = _around(tokenizer, messages, len(messages) - 1)
    ends = {first_token(behind_last, added), tokenizer.eos_token}
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


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _render(tokenizer: Any, messages: Messages, *, add_generation_prompt: bool = False) -> str:
    if not tokenizer.chat_template:
        raise ArtifactError(
            "tokenizer: no chat template",
            hint="use an instruct model, or put chat_template.jinja beside it",
        )
    if not messages:
        return ""
    try:
        with fixed_clock():
            text = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
    except Exception as error:  # a template is a program: what it raises is anything
        raise Refused(f"chat template: {error}") from error
    return str(text)
