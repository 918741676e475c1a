"""Conversations to token ids through the tokenizer's own chat template, for training and for comparing with the device.

The one rule: a model is trained on exactly the ids that it will see when it is asked, so the prompt as it is rendered for an answer
must be the beginning of the conversation as it is rendered with one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.errors import ArtifactError

IGNORED = -100
"""Label of a position that is not learned (torch.nn.functional.cross_entropy's ignore_index)."""

Messages = Sequence[Mapping[str, str]]


class TooLong(ArtifactError):  # noqa: N818 - a name, not a suffix: callers that drop long conversations catch it
    """A conversation that has more tokens than allowed."""


def encode(
    tokenizer: Any, messages: Messages, max_tokens: int, opening: int = 0
) -> tuple[list[int], list[int]]:
    """Return (ids, labels) of a conversation: labels are the ids of each answer with its end token, IGNORED elsewhere.

    Answers in the first `opening` messages, with which every conversation begins, are not learned. What a template writes after the
    last answer's end token is cut off. Raises TooLong, and ArtifactError for a template whose
    prompt is not the beginning of the conversation.
    """
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    whole = _render(tokenizer, messages[: answers[-1] + 1] if answers else messages)
    labels, end = [IGNORED] * len(whole), len(whole)
    for number in (number for number in answers if number >= opening):
        prompt = render_prompt(tokenizer, messages[:number])
        start, end = (
            len(prompt),
            _end(tokenizer, _render(tokenizer, messages[: number + 1]), len(prompt)),
        )
        if whole[:start] != prompt or end <= start:
            hint = "training needs a template whose generation prompt is the beginning of the rendered answer"
            raise ArtifactError(
                f"chat template: the prompt of message {number + 1} is not how the conversation begins",
                hint=hint,
            )
        labels[start:end] = whole[start:end]
    if end > max_tokens:
        raise TooLong(f"conversation: {end} tokens, {max_tokens} are allowed")
    return whole[:end], labels[:end]


def render_prompt(tokenizer: Any, messages: Messages) -> list[int]:
    """Return the ids after which the model answers."""
    return _render(tokenizer, messages, add_generation_prompt=True)


def _render(
    tokenizer: Any, messages: Messages, *, add_generation_prompt: bool = False
) -> list[int]:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ArtifactError(
            "tokenizer: no chat template",
            hint="use an instruct model, or put chat_template.jinja beside it",
        )
    try:
        return list(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tokenize=True,
                return_dict=False,
            )
        )
    except TemplateError as error:
        raise ArtifactError(f"chat template: {error}") from error


def _end(tokenizer: Any, ids: Sequence[int], start: int) -> int:
    """Return where an answer ends: after the last special token behind `start`, or at the end where there is none."""
    specials = set(tokenizer.all_special_ids) | {
        id for id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return next(
        (
            position + 1
            for position in range(len(ids) - 1, start - 1, -1)
            if ids[position] in specials
        ),
        len(ids),
    )
