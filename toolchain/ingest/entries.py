"""What a line of data is once it was read: an entry of phrasings, or a document."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Messages = tuple[Mapping[str, Any], ...]
"""Messages of `role` and `content`; with `tool_calls` where one calls tools."""
Tools = tuple[Mapping[str, Any], ...]
"""Tools that a conversation may call, as templates show them."""
Row = dict[str, Any]
"""A conversation as training reads it: `messages`, how many of them are the `opening`, and the
`tools` that it may call."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a text was read."""

    file: str
    line: int = 0
    """Number of the line, or of the `unit`; 0 for the whole file."""
    unit: str = ""
    """`row` or `paragraph` in files whose lines mean nothing."""

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}: {self.unit} {self.line}" if self.unit else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Phrasings of one question as conversations with the same answer."""

    place: Place
    phrasings: tuple[Messages, ...]
    unknown_keys: tuple[str, ...] = ()
    tools: Tools = ()

    @property
    def where(self) -> str:
        """Return `file.jsonl:12`."""
        return str(self.place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One plain text."""

    place: Place
    text: str
