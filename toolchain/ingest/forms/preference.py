"""Pairs of preference (DPO): the chosen answer is learned, the rejected one is not read.

`align` is the stage that learns from both; here a chosen answer is an answer like any other.
"""

import re
from collections.abc import Mapping
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Entry, Messages, Place
from toolchain.ingest.forms.completion import joined
from toolchain.ingest.forms.messages import conversation
from toolchain.ingest.forms.ours import others, system_message

PROMPTS = ("prompt", "question", "input", "instruction")
_TURN = re.compile(r"\n\n(Human|Assistant): ?")
"""Start of a turn in the texts of Anthropic's HH-RLHF, which hold whole conversations."""
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_preference(place: Place, row: Mapping[str, Any]) -> Entry:
    """Return the chosen answer with its question."""
    prompt = next((key for key in PROMPTS if key in row), "")
    system = system_message(place, row)
    messages = joined(place, row, prompt, "chosen") if prompt else _whole(place, row["chosen"])
    known = (prompt, "chosen", "rejected", *(("system",) if system else ()))
    return Entry(
        place=place,
        phrasings=(system + _without_doubles(messages),),
        unknown_keys=others(row, *known),
    )


def _whole(place: Place, chosen: Any) -> Messages:
    """Return a conversation that stands in `chosen` as a whole."""
    if isinstance(chosen, list):
        return conversation(place, chosen, "chosen")
    pieces = _TURN.split(f"\n\n{chosen.lstrip()}") if isinstance(chosen, str) else []
    if len(pieces) < 3:
        raise ArtifactError(
            f"{place}: missing key `prompt`", hint="a pair is {prompt, chosen, rejected}"
        )
    return tuple(
        {"role": _SPEAKERS[speaker], "content": text.strip()}
        for speaker, text in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def _without_doubles(messages: Messages) -> Messages:
    """Return messages without the prompt's repetition: some tools write it into `chosen` too."""
    half = [at for at in range(1, len(messages)) if messages[:at] == messages[at : 2 * at]]
    return messages[half[-1] :] if half else messages
