"""Alpaca: {"instruction", "input", "output"}, with `system` and `history` as trainers add them."""

from collections.abc import Mapping
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Entry, Messages, Place
from toolchain.ingest.forms.ours import others, system_message
from toolchain.opening import dialogue


def read_alpaca(place: Place, row: Mapping[str, Any]) -> Entry:
    """Return an entry whose question is the instruction, and behind it the input."""
    texts = (row["instruction"], row.get("input") or "", row["output"])
    if not all(isinstance(text, str) for text in texts):
        raise ArtifactError(f"{place}: `instruction`, `input` and `output` must be text")
    instruction, given, output = texts
    question = "\n\n".join(text.strip() for text in (instruction, given) if text.strip())
    messages = (
        *system_message(place, row),
        *_history(place, row.get("history") or []),
        *dialogue(question, output),
    )
    known = ("instruction", "input", "output", "system", "history")
    return Entry(place=place, phrasings=(messages,), unknown_keys=others(row, *known))


def _history(place: Place, turns: Any) -> Messages:
    """Return earlier turns, each a question with its answer."""
    is_right = isinstance(turns, list) and all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
        for turn in turns
    )
    if not is_right:
        raise ArtifactError(f"{place}: `history` must be a list of [question, answer]")
    return tuple(message for turn in turns for message in dialogue(*turn))
