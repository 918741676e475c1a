"""OpenAI's answers: whole, in chunks, and as errors. Standard library only."""

import base64
import json
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from device.engine.base import Candidate, FieldError, Timing, Token
from device.errors import DeviceError
from device.knowledge.consult import Consulted
from device.knowledge.index import Hit
from device.manifest.markups import Markup
from device.manifest.tool_calls import read_calls

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
"""llama-server's answer while it loads; its clients wait for it."""
DONE = b"data: [DONE]\n\n"


def sentence(error: DeviceError) -> str:
    """Return an error as one text, with its hint."""
    return f"{error.message}; {error.hint}" if error.hint else error.message


def error_body(error: DeviceError) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    field = error.field if isinstance(error, FieldError) else None
    return {"error": {"message": sentence(error), "type": kind, "param": field, "code": error.code}}


def event(body: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def embeddings(
    model: str, vectors: "list[list[float]]", tokens: int, *, packed: bool
) -> dict[str, Any]:
    """Return vectors in OpenAI's shape, as numbers or as base64 of little-endian float32."""

    def shown(vector: "list[float]") -> Any:
        """Return a vector as it stands in the reply."""
        return (
            base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            if packed
            else vector
        )

    data = [
        {"object": "embedding", "index": number, "embedding": shown(vector)}
        for number, vector in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def passage(hit: Hit) -> dict[str, Any]:
    """Return a passage as JSON."""
    return {
        "id": hit.id,
        "title": hit.title,
        "source": hit.source,
        "heading": hit.heading,
        "page": hit.page,
        "score": round(hit.score, 4),
        "text": hit.text,
    }


@dataclass(frozen=True)
class Reply:
    """One answer in progress: the fields that all its chunks share."""

    model: str
    chat: bool
    consulted: "Consulted | None" = None
    """What the documents say to it; None if it is not about them."""
    markup: "Markup | None" = None
    """How its calls of tools are written; None if it calls none."""
    prefix: str = ""
    """How its id begins; empty: as /v1/chat/completions and /v1/completions have it."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def name(self) -> str:
        """Id of the answer, as its client sees it."""
        prefix = self.prefix or ("chatcmpl-" if self.chat else "cmpl-")
        return f"{prefix}{self.id}"

    def whole(self, steps: Sequence[Token]) -> dict[str, Any]:
        """Return all answers in one piece."""
        answers = list(_answers(steps))
        choices = [self._choice(number, answer) for number, answer in enumerate(answers)]
        kind = "chat.completion" if self.chat else "text_completion"

        return {
            **self._head(kind),
            "choices": choices,
            **_figures(together([answer[-1].timing for answer in answers]), usage=True),
            **self.knowledge(),
        }

    def _choice(self, number: int, steps: Sequence[Token]) -> dict[str, Any]:
        text = "".join(step.text for step in steps)
        reason: "str | None" = steps[-1].finish_reason
        content: dict[str, Any] = {"text": text}
        if self.chat:
            message = self._message(text, steps[-1].refusal, cut=reason == "length")
            content = {"message": message}
            reason = finish(reason, calls=bool(content["message"].get("tool_calls")))

        return {
            "index": number,
            **content,
            "logprobs": self._logprobs(steps, 0),
            "finish_reason": reason,
        }

    def _message(self, text: str, refusal: str, *, cut: bool) -> dict[str, Any]:
        """Return an answer as a message, its calls apart from its text.

        A refusal stands in the text too, for clients that show nothing else; but never in JSON.
        """
        content, calls = read_calls(text, self.markup, cut=cut) if self.markup else (text, [])
        message: dict[str, Any] = {
            "role": "assistant",
            "content": content or None if calls or refusal else content,
            "refusal": refusal or None,
            **self.annotations(len(text)),
        }
        return {**message, "tool_calls": calls} if calls else message

    def opening(self, number: int = 0) -> list[dict[str, Any]]:
        """Return the chunks before the first text of the answer of this number."""
        return (
            [self.delta({"role": "assistant", "content": ""}, number=number)] if self.chat else []
        )

    def chunk(self, step: Token, offset: int, number: int = 0) -> dict[str, Any]:
        """Return the chunk of a step's text; `offset` characters came before it."""
        content = {"delta": {"content": step.text}} if self.chat else {"text": step.text}
        content["logprobs"] = self._logprobs([step], offset)  # type: ignore[assignment]
        return self._chunk(content, None, number)

    def delta(
        self, delta: dict[str, Any], scored: "Token | None" = None, number: int = 0
    ) -> dict[str, Any]:
        """Return the chunk of a part of a message, with the log-probabilities of a step."""
        logprobs = self._logprobs([scored], 0) if scored else None
        return self._chunk({"delta": delta, "logprobs": logprobs}, None, number)

    def closing(
        self,
        last: Token,
        length: int,
        *,
        include_usage: bool,
        number: int = 0,
        calls: bool = False,
    ) -> list[dict[str, Any]]:
        """Return the chunks after the last text: sources, the finish reason and the usage.

        `length` is the number of characters of the answer.
        """
        refused = {"refusal": last.refusal} if last.refusal else {}
        delta = {**refused, **self.annotations(length)}
        content = {"delta": delta} if self.chat else {"text": ""}
        end = self._chunk(content, finish(last.finish_reason, calls=calls), number)
        chunks = [{**end, **_figures(last.timing, usage=False), **self.knowledge()}]
        if include_usage:
            chunks.append({**end, "choices": [], **_figures(last.timing, usage=True)})
        return chunks

    def annotations(self, length: int) -> dict[str, Any]:
        """Return the sources in OpenAI's shape of citations; nothing if there are none."""
        if self.consulted is None:
            return {}
        cited = [
            {
                "type": "url_citation",
                "url_citation": {
                    "start_index": 0,
                    "end_index": length,
                    **_place(hit),
                },
            }
            for hit in self.consulted.sources
        ]
        return {"annotations": cited}

    def knowledge(self) -> dict[str, Any]:
        """Return whether the documents know, and what else they say that is near."""
        if self.consulted is None:
            return {}
        found = self.consulted.found
        said: dict[str, Any] = {"known": found.known, "certainty": round(found.certainty, 4)}
        if self.consulted.near:
            said["near"] = [_place(hit) for hit in self.consulted.near]
        return {"knowledge": said}

    def _chunk(self, content: dict[str, Any], reason: "str | None", number: int) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return {
            **self._head(kind),
            "choices": [{"index": number, "logprobs": None, **content, "finish_reason": reason}],
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def _logprobs(self, steps: Sequence[Token], offset: int) -> "dict[str, Any] | None":
        """Return the log-probabilities of the tokens, in a conversation's or a prompt's shape.

        None if the request did not ask for them.
        """
        begins = accumulate((len(step.text) for step in steps), initial=offset)
        scored = [
            (step, begin) for step, begin in zip(steps, begins, strict=False) if step.candidates
        ]
        if not scored:
            return None
        if self.chat:
            return {"content": [scored_token(step) for step, _ in scored], "refusal": None}

        return {
            "tokens": [_text(step.candidates[0]) for step, _ in scored],
            "token_logprobs": [step.candidates[0].logprob for step, _ in scored],
            "top_logprobs": [_likeliest(step) for step, _ in scored],
            "text_offset": [begin for _, begin in scored],
        }


def _place(hit: Hit) -> dict[str, str]:
    """Return the title of a passage, and the path where the service gives its text."""
    return {"title": hit.title, "url": f"/v1/knowledge/{hit.id}"}


def finish(reason: "str | None", *, calls: bool) -> "str | None":
    """Return why an answer ended, as OpenAI's API says it; one that was cut off stays `length`."""
    return "tool_calls" if calls and reason == "stop" else reason


def _answers(steps: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield the steps of each answer, one after the other."""
    begin = 0
    for at, step in enumerate(steps, 1):
        if step.finish_reason:
            yield steps[begin:at]
            begin = at


def together(timings: "Sequence[Timing | None]") -> "Timing | None":
    """Return what all answers to one question took: its prompt counts once."""
    known = [timing for timing in timings if timing]
    if not known:
        return None
    return replace(
        known[0],
        prefill_s=sum(each.prefill_s for each in known),
        answer_tokens=sum(each.answer_tokens for each in known),
        decode_steps=sum(each.decode_steps for each in known),
        decode_s=sum(each.decode_s for each in known),
    )


def scored_token(step: Token) -> dict[str, Any]:
    """Return a step's token with its log-probability, and the likeliest tokens beside it."""
    own, *likely = map(_candidate, step.candidates)
    return {**own, "top_logprobs": likely}


def _likeliest(step: Token) -> "dict[str, float | None] | None":
    """Return the likeliest tokens of a step; None for the first token of a prompt."""
    own, *likely = step.candidates
    return None if own.logprob is None else {_text(each): each.logprob for each in likely}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {"token": _text(candidate), "logprob": candidate.logprob, "bytes": list(candidate.piece)}


def _text(candidate: Candidate) -> str:
    return candidate.piece.decode("utf-8", "replace")


def _figures(timing: "Timing | None", *, usage: bool) -> dict[str, Any]:
    """Return OpenAI's `usage` and llama-server's `timings`."""
    if timing is None:
        return {}

    figures: dict[str, Any] = {
        "timings": {
            "cache_n": timing.reused_tokens,
            "prompt_n": timing.prompt_tokens - timing.reused_tokens,
            "prompt_ms": round(timing.prefill_s * 1000, 3),
            "predicted_n": timing.answer_tokens,
            "predicted_ms": round(timing.decode_s * 1000, 3),
            "predicted_per_second": round(timing.decode_tok_s(), 3),
        }
    }
    if usage:
        figures["usage"] = {
            "prompt_tokens": timing.prompt_tokens,
            "completion_tokens": timing.answer_tokens,
            "total_tokens": timing.prompt_tokens + timing.answer_tokens,
            "prompt_tokens_details": {"cached_tokens": timing.reused_tokens},
        }

    return figures
