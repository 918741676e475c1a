"""What a message says, calls of tools included, as one text: to compare, count and show it.

How calls are written for a model is another matter: that depends on its template (toolchain.chat).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from device.manifest.markups import GENERIC


def said(message: Mapping[str, Any]) -> str:
    """Return the text of a message, its calls behind it in Hermes' markup."""
    content = str(message.get("content") or "")
    calls = message.get("tool_calls")
    return "\n".join(filter(None, (content, GENERIC.calls(calls)))) if calls else content


def called(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the names and arguments of the calls of a message."""
    return [
        (call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]


def is_called(answered: Sequence[Mapping[str, Any]], expected: Mapping[str, Any]) -> bool:
    """Say whether the calls of an answer are exactly those of the expected message.

    Both sides count: a call where text is expected is as wrong as a text in place of a call. Names
    and arguments are compared as values, not as texts.
    """
    return [_read(call) for call in answered] == called(expected)


def _read(call: Mapping[str, Any]) -> tuple[str, Any]:
    """Return name and arguments of a call; arguments that were cut off stay a text."""
    function = call["function"]
    try:
        return function["name"], json.loads(function["arguments"])
    except ValueError:
        return function["name"], function["arguments"]
