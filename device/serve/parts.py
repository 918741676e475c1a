"""One answer of a stream in OpenAI's chunks: its text, and its calls of tools part by part.

Standard library only.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from device.engine.base import Token
from device.manifest.tool_calls import Piece, Reader
from device.serve.replies import Reply


class Part:
    """The chunks of the answer of one number."""

    def __init__(self, reply: Reply, number: int) -> None:
        self._reply = reply
        self._number = number
        self._reader = Reader(reply.markup) if reply.markup else None
        self.length = 0
        """Number of characters of the answer so far."""

    @property
    def calls(self) -> bool:
        """Whether the answer calls a tool."""
        return bool(self._reader and self._reader.calls)

    def feed(self, step: Token) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a step."""
        if self._reader:
            yield from self._read(self._reader, step)
        elif step.text or step.candidates:
            yield self._reply.chunk(step, self.length, self._number)
        self.length += len(step.text)

    def _read(self, reader: Reader, step: Token) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a step that may be a part of a call."""
        pieces = reader.feed(step.text)
        if step.finish_reason:
            pieces += reader.end(cut=step.finish_reason == "length")
        deltas = [_delta(piece) for piece in pieces] or ([{}] if step.candidates else [])
        scored: "Token | None" = step
        for delta in deltas:
            yield self._reply.delta(delta, scored, self._number)
            scored = None

    def closing(self, last: Token, *, include_usage: bool) -> list[dict[str, Any]]:
        """Return the chunks after the last step; `last` has the figures of all answers."""
        return self._reply.closing(
            replace(last, text=""),
            self.length,
            include_usage=include_usage,
            number=self._number,
            calls=self.calls,
        )


def _delta(piece: Piece) -> dict[str, Any]:
    """Return a part of a message."""
    if piece.call is None:
        return {"content": piece.text}
    if not piece.name:
        return {"tool_calls": [{"index": piece.call, "function": {"arguments": piece.text}}]}

    function = {"name": piece.name, "arguments": piece.text}
    begun = {"index": piece.call, "id": piece.id, "type": "function", "function": function}
    return {"tool_calls": [begun]}
