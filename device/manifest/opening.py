"""The opening of a bundle's conversations: instructions, and turns that show how to answer.

The rule: an opening is put before a conversation that has no instructions of its own and does not
begin with the opening already. So host and board see the same prompts, and putting it there twice
is the same as once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
MAX_OPENING_BYTES = 1 << 20
"""Maximum size of an opening: more text than the context of any board holds."""


def opening_of(system: str, turns: Messages) -> "tuple[Mapping[str, Any], ...]":
    """Return instructions and turns as messages."""
    return (*([{"role": "system", "content": system}] if system else []), *turns)


def begins(messages: Messages, opening: Messages) -> bool:
    """Say whether a conversation begins with an opening."""
    return list(messages[: len(opening)]) == list(opening)


def opened(messages: Messages, opening: Messages) -> Messages:
    """Return a conversation as the model sees it, with its opening."""
    has_instructions = bool(messages) and messages[0].get("role") == "system"
    return messages if has_instructions or begins(messages, opening) else [*opening, *messages]


def bare(messages: Messages, opening: Messages) -> Messages:
    """Return a conversation without its opening, as a client sends it; `opened` puts it back."""
    rest = messages[len(opening) :]
    return (
        rest
        if rest and begins(messages, opening) and list(opened(rest, opening)) == list(messages)
        else messages
    )
