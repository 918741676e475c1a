"""An entry as training reads it: conversations with their opening, and pages of a manual."""

from collections.abc import Mapping, Sequence

from device.manifest.opening import bare, opened
from toolchain.ingest.entries import Entry, Messages, Row, Tools
from toolchain.tool_use import said


def conversation(messages: Messages, opening: Sequence[Mapping[str, str]], tools: Tools) -> Row:
    """Return a conversation with its opening, and the number of the opening's messages."""
    # Nothing is learned of these.
    whole = opened(messages, opening)
    count = len(whole) - len(bare(whole, opening))
    return {
        "messages": list(whole),
        **({"opening": count} if count else {}),
        **({"tools": list(tools)} if tools else {}),
    }


def pages(entry: Entry) -> list[str]:
    """Return an entry as pages of a manual: the answer, under each phrasing as the heading."""
    return [
        "\n\n".join(said(message) for message in p if message["role"] != "system")
        for p in entry.phrasings
    ]
