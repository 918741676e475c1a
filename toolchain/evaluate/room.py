"""Held-out conversations that fit in the context; longer ones are left out and counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.chat import TooLong, encode_row
from toolchain.errors import ArtifactError

Conversation = Mapping[str, Any]


def with_room(
    tokenizer: Any, chats: Sequence[Conversation], context: int
) -> tuple[list[Conversation], int]:
    """Return the conversations of at most `context` tokens, and the number of longer ones.

    Raise ArtifactError if none is left.
    """
    if not chats:
        raise ArtifactError(
            "evaluate: nothing is held out, so there is nothing to measure on",
            hint="raise `held_out_share` of `[data]`, or add entries",
        )
    kept: list[Conversation] = []
    for chat in chats:
        try:
            encode_row(tokenizer, chat, context)
        except TooLong:
            continue
        kept.append(chat)
    if not kept:
        problem = f"all {len(chats)} held-out conversations are longer than {context} tokens"
        raise ArtifactError(f"evaluate: {problem}", hint="hold out shorter ones")
    return kept, len(chats) - len(kept)
