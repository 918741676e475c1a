"""Which held-out conversations the gate asks, and which decide between candidates before it.

A choice that was made on the gate's own questions is measured too kindly by them. So where types
are chosen or codes are learned, the held-out conversations are split: what decides (`trials`) is
nothing that the gate asks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.artifacts import Dataset
from toolchain.tool_use import said

Conversation = Mapping[str, Any]
TRIAL_SHARE = 3
"""One conversation in so many is a trial, more where the gate would not ask the rest anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Conversations for three uses, none of which stands in two of them where there are enough."""

    gate: tuple[Conversation, ...]
    """What the gate asks."""
    trials: tuple[Conversation, ...]
    """What decides between candidates."""
    lessons: tuple[Conversation, ...]
    """What codes are learned on."""
    source: str
    """Where the trials come from, in words."""


def split(dataset: Dataset, questions: int) -> Split:
    """Return the split of a data set for a gate of `questions` conversations, always the same one.

    A question that stands in the data twice is on one side only.
    """
    held_out, train = dataset.held_out(), dataset.train()
    keys = list(dict.fromkeys(map(_question, held_out)))
    if len(keys) >= 2:
        count = max(1, len(keys) // TRIAL_SHARE, len(keys) - questions)
        chosen = _spread(keys, min(count, len(keys) - 1))
        return Split(
            gate=tuple(row for row in held_out if _question(row) not in chosen),
            trials=tuple(row for row in held_out if _question(row) in chosen),
            lessons=tuple(train),
            source="held-out conversations that the gate does not ask",
        )

    # Nothing is left to the gate if its only question decides, so some of what was trained on does.
    keys = [key for key in dict.fromkeys(map(_question, train)) if key not in keys]
    chosen = _spread(keys, max(1, len(keys) // TRIAL_SHARE))
    trials = tuple(row for row in train if _question(row) in chosen)
    lessons = tuple(row for row in train if _question(row) not in chosen)
    return Split(
        gate=tuple(held_out),
        trials=trials,
        lessons=lessons or trials,
        source="conversations of the training, as too few are held out",
    )


def _question(row: Conversation) -> str:
    """Return what a conversation asks: all that is said before the last answer."""
    return repr([(message["role"], said(message)) for message in row["messages"][:-1]])


def _spread(keys: Sequence[str], count: int) -> set[str]:
    """Return `count` of the keys, evenly spread: neighbours in a file are often of one subject."""
    total = len(keys)
    return {
        key
        for place, key in enumerate(keys)
        if (place + 1) * count // total > place * count // total
    }
