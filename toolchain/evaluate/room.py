"""Held-out conversations that the context has room for: longer ones are left out and counted, as training leaves them out."""

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.chat import TooLong, encode
from toolchain.errors import ArtifactError

Conversation = Mapping[str, Any]


def with_room(
    tokenizer: Any, chats: Sequence[Conversation], context: int
) -> tuple[list[Conversation], int]:
    """Return the conversations of at most `context` tokens, and how many have more; raise ArtifactError where none is left."""
    if not chats:
        raise ArtifactError(
            "evaluate: nothing is held out, so there is nothing to measure on",
            hint="raise `held_out_share` of `[data]`, or add entries",
        )
    kept: list[Conversation] = []
    for chat in chats:
        try:
            encode(tokenizer, chat["messages"], context, chat.get("opening", 0))
        except TooLong:
            continue
        kept.append(chat)
    if not kept:
        problem = f"all {len(chats)} held-out conversations are longer than {context} tokens"
        raise ArtifactError(f"evaluate: {problem}", hint="hold out shorter ones")
    return kept, len(chats) - len(kept)
