"""Replies of /v1/responses: the events of an answer, and the object that they make.

An answer that is sent whole is the object of its last event, so both say the same. Standard
library only.
"""

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from device.engine.base import Timing, Token
from device.errors import DeviceError
from device.manifest.tool_calls import Piece, Reader
from device.serve.replies import Reply, scored_token, sentence

PREFIX = "resp_"
"""How the id of a reply begins."""
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer ended → what this API calls it, of an answer that is not whole."""


def event_of(body: Mapping[str, Any]) -> bytes:
    """Return a server-sent event, named as its type: clients of this API go by the name."""
    data = json.dumps(body, ensure_ascii=False)
    return f"event: {body['type']}\ndata: {data}\n\n".encode()


@dataclass
class _Item:
    """A part of the output that is being written: a message, or a call."""

    shown: dict[str, Any]
    number: int
    text: str = ""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        """Whether it is a call of a function."""
        return bool(self.shown["type"] == "function_call")

    @property
    def part(self) -> dict[str, Any]:
        """The text of a message as its one content part."""
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": self.annotations,
            "logprobs": self.logprobs,
        }

    def ended(self, status: str) -> dict[str, Any]:
        """Return the item as it stands in the output."""
        own = {"arguments": self.text} if self.is_call else {"content": [self.part]}
        return {**self.shown, **own, "status": status}


class Answer:
    """One answer in progress."""

    def __init__(self, reply: Reply, shown: Mapping[str, Any]) -> None:
        self._reply = reply
        self._shown = shown
        self._reader = Reader(reply.markup) if reply.markup else None
        self._output: list[dict[str, Any]] = []
        self._item: "_Item | None" = None
        self._scored: list[dict[str, Any]] = []
        """Log-probabilities of tokens whose text has not been sent."""
        self._sent = 0

    def opening(self) -> list[dict[str, Any]]:
        """Return the events before the first text."""
        began = self._response("in_progress")
        return [
            self._event("response.created", response=began),
            self._event("response.in_progress", response=began),
        ]

    def feed(self, step: Token) -> Iterator[dict[str, Any]]:
        """Yield the events of a step; those of the last step end the answer."""
        if step.candidates:
            self._scored.append(scored_token(step))
        for piece in self._pieces(step):
            yield from self._call(piece) if piece.call is not None else self._write(piece.text)
        if step.finish_reason:
            yield from self._end(step)

    def failed(self, error: DeviceError) -> dict[str, Any]:
        """Return the event of an answer that ended in an error."""
        problem = {"code": "server_error", "message": sentence(error)}
        return self._event("response.failed", response=self._response("failed", error=problem))

    def whole(self, steps: Sequence[Token]) -> dict[str, Any]:
        """Return the answer in one piece."""
        events = [event for step in steps for event in self.feed(step)]
        response: dict[str, Any] = events[-1]["response"]
        return response

    def _pieces(self, step: Token) -> list[Piece]:
        if self._reader is None:
            return [Piece(step.text)] if step.text else []
        pieces = self._reader.feed(step.text)
        if step.finish_reason:
            pieces += self._reader.end(cut=step.finish_reason == "length")
        return pieces

    def _write(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a part of a message's text."""
        if self._item is None or self._item.is_call:
            yield from self._close()
            yield from self._open({"type": "message", "role": "assistant", "content": []})

        item = self._item
        assert item
        scored, self._scored = self._scored, []
        item.text += text
        item.logprobs += scored
        delta = {"delta": text, "logprobs": scored}
        yield self._of_part("response.output_text.delta", item, **delta)

    def _call(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Yield the events of a part of a call."""
        self._scored = []  # they stand beside texts alone, as in OpenAI's API
        if piece.name:
            yield from self._close()
            begun = {"type": "function_call", "call_id": piece.id, "name": piece.name}
            yield from self._open({**begun, "arguments": ""})

        item = self._item
        assert item
        item.text += piece.text
        if piece.text:
            of = self._of(item)
            yield self._event("response.function_call_arguments.delta", **of, delta=piece.text)

    def _open(self, shown: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events with which an item begins."""
        prefix = "fc" if shown["type"] == "function_call" else "msg"
        shown = {"id": f"{prefix}_{secrets.token_hex(12)}", **shown}
        item = self._item = _Item(shown, len(self._output))
        begun = {"output_index": item.number, "item": {**shown, "status": "in_progress"}}
        yield self._event("response.output_item.added", **begun)
        if not item.is_call:
            yield self._of_part("response.content_part.added", item, part=item.part)

    def _close(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        """Yield the events with which the item in progress ends."""
        item, self._item = self._item, None
        if item is None:
            return

        if item.is_call:
            done = {"name": item.shown["name"], "arguments": item.text}
            yield self._event("response.function_call_arguments.done", **self._of(item), **done)
        else:
            text = {"text": item.text, "logprobs": item.logprobs}
            yield self._of_part("response.output_text.done", item, **text)
            yield self._of_part("response.content_part.done", item, part=item.part)

        ended = item.ended(status)
        self._output.append(ended)
        yield self._event("response.output_item.done", output_index=item.number, item=ended)

    def _end(self, last: Token) -> Iterator[dict[str, Any]]:
        """Yield the events that end the answer."""
        if last.refusal and self._item is None:
            yield from self._refuse(last.refusal)
        # Nothing was said, or the last token has a probability and no text.
        elif self._item is None or (self._scored and not self._item.is_call):
            yield from self._write("")
        if self._item and not self._item.is_call:
            yield from self._cite(self._item)

        why = _INCOMPLETE.get(last.finish_reason or "")
        status = "incomplete" if why else "completed"
        yield from self._close(status)

        reason = {"reason": why} if why else None
        response = self._response(
            status,
            incomplete_details=reason,
            completed_at=int(time.time()) if status == "completed" else None,
            usage=_usage(last.timing),
            **self._reply.knowledge(),
        )
        yield self._event(f"response.{status}", response=response)

    def _refuse(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the events of a message that is a refusal, where none may stand in the text."""
        said = {"type": "message", "role": "assistant", "content": []}
        shown = {"id": f"msg_{secrets.token_hex(12)}", **said}
        place = {"item_id": shown["id"], "output_index": len(self._output), "content_index": 0}
        part = {"type": "refusal", "refusal": text}
        begun = {**shown, "status": "in_progress"}
        number = place["output_index"]

        yield self._event("response.output_item.added", output_index=number, item=begun)
        yield self._event("response.content_part.added", **place, part={**part, "refusal": ""})
        yield self._event("response.refusal.delta", **place, delta=text)
        yield self._event("response.refusal.done", **place, refusal=text)
        yield self._event("response.content_part.done", **place, part=part)
        ended = {**shown, "content": [part], "status": "incomplete"}
        self._output.append(ended)
        yield self._event("response.output_item.done", output_index=number, item=ended)

    def _cite(self, item: _Item) -> Iterator[dict[str, Any]]:
        """Yield the sources of a text."""
        cited = self._reply.annotations(len(item.text)).get("annotations", [])
        for number, each in enumerate(cited):
            source = {"type": each["type"], **each["url_citation"]}
            item.annotations.append(source)
            added = {"annotation_index": number, "annotation": source}
            yield self._of_part("response.output_text.annotation.added", item, **added)

    def _of(self, item: _Item) -> dict[str, Any]:
        return {"item_id": item.shown["id"], "output_index": item.number}

    def _of_part(self, kind: str, item: _Item, **fields: Any) -> dict[str, Any]:
        """Return an event of a message's one content part."""
        return self._event(kind, **self._of(item), content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        number, self._sent = self._sent, self._sent + 1
        return {"type": kind, "sequence_number": number, **fields}

    def _response(self, status: str, **fields: Any) -> dict[str, Any]:
        """Return the reply as far as it is known."""
        return {
            "id": self._reply.name,
            "object": "response",
            "created_at": self._reply.created,
            "status": status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "model": self._reply.model,
            "output": list(self._output),
            "usage": None,
            **self._shown,
            **fields,
        }


def _usage(timing: "Timing | None") -> "dict[str, Any] | None":
    if timing is None:
        return None
    # Nothing is charged for writing the cache, and no token is thought without being said.
    read = {"cached_tokens": timing.reused_tokens, "cache_write_tokens": 0}
    return {
        "input_tokens": timing.prompt_tokens,
        "input_tokens_details": read,
        "output_tokens": timing.answer_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": timing.prompt_tokens + timing.answer_tokens,
    }
