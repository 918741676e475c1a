"""What a message says, calls of tools included, as one text: to compare, count and show it.

How calls are written for a model is another matter: that depends on its template (toolchain.chat).
"""

from collections.abc import Mapping
from typing import Any

from device.manifest.tool_calls import GENERIC


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
