"""What the conversations of a bundle begin with: its instructions, and turns that show how questions are answered.

The rule: it comes before a conversation that brings no instructions of its own and does not begin with it already. So host and
board see the same prompts, and to put it there twice is to put it there once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
MAX_OPENING_BYTES = 1 << 20
"""More text than the context of any board holds."""


def opening_of(system: str, turns: Messages) -> "tuple[Mapping[str, Any], ...]":
    """Return instructions and turns as the messages that they are."""
    return (*([{"role": "system", "content": system}] if system else []), *turns)


def begins(messages: Messages, opening: Messages) -> bool:
    """Say whether a conversation begins with an opening."""
    return list(messages[: len(opening)]) == list(opening)


def opened(messages: Messages, opening: Messages) -> Messages:
    """Return a conversation as the model sees it."""
    has_instructions = bool(messages) and messages[0].get("role") == "system"
    return messages if has_instructions or begins(messages, opening) else [*opening, *messages]


def bare(messages: Messages, opening: Messages) -> Messages:
    """Return what is left of a conversation for a client to send, so that `opened` makes the same of it."""
    rest = messages[len(opening) :]
    return (
        rest
        if rest and begins(messages, opening) and list(opened(rest, opening)) == list(messages)
        else messages
    )
