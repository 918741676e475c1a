"""Prompts with completions, and their like: {"prompt", "completion"}, {"query", "response"}, …"""

from collections.abc import Mapping
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Entry, Messages, Place
from toolchain.ingest.forms.messages import conversation
from toolchain.ingest.forms.ours import others, system_message
from toolchain.opening import dialogue

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("query", "response"),
    ("question", "response"),
    ("input", "output"),
)
BAD = "labelled as a bad answer"


def completion_keys(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the keys of prompt and completion; None where a row has no such pair."""
    return next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)


def read_completion(place: Place, row: Mapping[str, Any]) -> Entry | str:
    """Return an entry; the reason why it is none for an answer that is labelled as bad (KTO)."""
    keys = completion_keys(row)
    assert keys
    messages = joined(place, row, *keys)
    label = row.get("label", True)
    if label is False or (isinstance(label, str) and label.casefold() == "false"):
        return BAD
    system = system_message(place, row)
    known = (*keys, "label", *(("system",) if system else ()))
    return Entry(place=place, phrasings=(system + messages,), unknown_keys=others(row, *known))


def joined(place: Place, row: Mapping[str, Any], prompt: str, completion: str) -> Messages:
    """Return a prompt and its completion as messages: texts, or lists of messages (TRL)."""
    asked, said = row[prompt], row[completion]
    if isinstance(asked, str) and isinstance(said, str):
        return tuple(dialogue(asked, said))
    if isinstance(asked, list | str) and isinstance(said, list | str):
        return _turns(place, asked, prompt, "user") + _turns(place, said, completion, "assistant")
    raise ArtifactError(f"{place}: `{prompt}` and `{completion}` must be text")


def _turns(place: Place, value: list[Any] | str, key: str, role: str) -> Messages:
    if isinstance(value, str):
        return ({"role": role, "content": value.strip()},)
    return conversation(place, value, key)
