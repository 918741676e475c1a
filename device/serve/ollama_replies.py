"""Replies in the form of Ollama's API: lines of an answer, cards of the model, errors.

An answer that is sent whole is its lines put together, so both say the same. Durations are in
nanoseconds. Standard library only.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any

from device.engine.base import Description, Timing, Token
from device.errors import DeviceError
from device.manifest import Manifest
from device.manifest.tool_calls import Piece, Reader
from device.serve.ollama_requests import LATEST
from device.serve.replies import Reply, scored_token, sentence

API_VERSION = "0.12.0"
"""Version of Ollama whose API is followed: clients ask for it to know what they may send."""
NEVER = "2999-12-31T00:00:00Z"
"""When the model leaves memory: it stays as long as the service runs."""
_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))
_NS = 10**9


def error_body(error: DeviceError) -> dict[str, Any]:
    """Return an error in Ollama's form."""
    return {"error": sentence(error)}


def line_of(body: dict[str, Any]) -> bytes:
    """Return a line of a stream."""
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def moment(seconds: "float | None" = None) -> str:
    """Return a time, in seconds since 1970, as Ollama writes it; by default now."""
    when = datetime.fromtimestamp(time.time() if seconds is None else seconds, timezone.utc)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class _Call:
    """A call of a tool while it comes."""

    id: str
    name: str
    text: str = ""


class Answer:
    """One answer in progress, of /api/chat or /api/generate."""

    def __init__(self, reply: Reply, path: str, began_ns: int) -> None:
        self._reply = reply
        self._chat = path.endswith("/chat")
        self._began_ns = began_ns
        self._reader = Reader(reply.markup) if reply.markup else None
        self._call: "_Call | None" = None
        self._calls = 0
        self._chars = 0

    def feed(self, step: Token) -> list[dict[str, Any]]:
        """Return the lines of a step, the last line of the answer among them."""
        self._chars += len(step.text)
        logprobs = {"logprobs": [scored_token(step)]} if step.candidates else {}
        parts = self._parts(step)
        if logprobs and not parts:
            parts = [{"content": ""}]

        lines = [self.line(part) for part in parts]
        if lines:
            lines[0].update(logprobs)
        if step.finish_reason:
            lines.append(self._closing(step))
        return lines

    def line(self, part: "dict[str, Any] | None" = None) -> dict[str, Any]:
        """Return the line of a part of a message; an empty one breaks a silence."""
        content = {"content": "", **(part or {})}
        said = (
            {"message": {"role": "assistant", **content}}
            if self._chat
            else {"response": content["content"]}
        )
        return {"model": self._reply.model, "created_at": moment(), **said, "done": False}

    def whole(self, steps: Sequence[Token]) -> dict[str, Any]:
        """Return the answer in one piece."""
        lines = [line for step in steps for line in self.feed(step)]
        messages = [line["message"] if self._chat else {} for line in lines]
        calls = [call for message in messages for call in message.get("tool_calls", [])]
        logprobs = [each for line in lines for each in line.get("logprobs", [])]

        last = dict(lines[-1])
        if self._chat:
            text = "".join(message["content"] for message in messages)
            last["message"] = {**messages[-1], "content": text}
            if calls:
                last["message"]["tool_calls"] = calls
        else:
            last["response"] = "".join(line["response"] for line in lines)
        return {**last, "logprobs": logprobs} if logprobs else last

    def loaded(self) -> dict[str, Any]:
        """Return the reply to a request that asks for the model to be in memory alone."""
        return {**self.line(), "done": True, "done_reason": "load"}

    def _parts(self, step: Token) -> list[dict[str, Any]]:
        """Return the parts of the message that a step completes: texts, and whole calls."""
        if self._reader is None:
            return [{"content": step.text}] if step.text else []

        parts: list[dict[str, Any]] = []
        for piece in self._reader.feed(step.text):
            parts += self._read(piece)
        if step.finish_reason:
            for piece in self._reader.end(cut=step.finish_reason == "length"):
                parts += self._read(piece)
            parts += self._end_call()
        return parts

    def _read(self, piece: Piece) -> list[dict[str, Any]]:
        if piece.call is None:
            return [*self._end_call(), {"content": piece.text}]
        if not piece.name and self._call:
            self._call.text += piece.text
            return []

        done = self._end_call()
        self._call = _Call(piece.id, piece.name, piece.text)
        return done

    def _end_call(self) -> list[dict[str, Any]]:
        """Return the call that has come whole; half a call, of an answer cut off, is left out."""
        call, self._call = self._call, None
        if call is None:
            return []
        try:
            arguments = json.loads(call.text)
        except ValueError:
            return []

        function = {"index": self._calls, "name": call.name, "arguments": arguments}
        self._calls += 1
        return [{"tool_calls": [{"id": call.id, "function": function}]}]

    def _closing(self, last: Token) -> dict[str, Any]:
        """Return the last line: why the answer ended, what it took, and its sources."""
        line = self.line(self._reply.annotations(self._chars))
        end = {"done": True, "done_reason": last.finish_reason}
        total = {"total_duration": time.perf_counter_ns() - self._began_ns, "load_duration": 0}
        return {**line, **end, **total, **_figures(last.timing), **self._reply.knowledge()}


def _figures(timing: "Timing | None") -> dict[str, int]:
    if timing is None:
        return {}
    return {
        "prompt_eval_count": timing.prompt_tokens,
        "prompt_eval_duration": round(timing.prefill_s * _NS),
        "eval_count": timing.answer_tokens,
        "eval_duration": round(timing.decode_s * _NS),
    }


@dataclass(frozen=True)
class Card:
    """What the API says of the model that is served."""

    manifest: Manifest
    description: Description
    began: float
    """When the service began, in seconds since 1970."""

    def listed(self) -> dict[str, Any]:
        """Return the model as an entry of /api/tags."""
        return {**self._entry(), "modified_at": moment(self.began)}

    def running(self, context: int) -> dict[str, Any]:
        """Return the model as an entry of /api/ps."""
        in_memory = {"expires_at": NEVER, "size_vram": 0, "context_length": context}
        return {**self._entry(), **in_memory}

    def shown(self, context: int, capabilities: list[str]) -> dict[str, Any]:
        """Return the reply of /api/show."""
        family = self._family
        return {
            "modelfile": f"FROM {self.manifest.name}{LATEST}\n",
            "parameters": f"num_ctx {context}\nnum_predict {self.manifest.max_tokens}",
            "template": "",
            "system": self.manifest.system,
            "license": "\n".join(self.manifest.licences),
            "details": self._details(),
            "model_info": {
                "general.architecture": family,
                "general.parameter_count": self.description.model_n_params,
                f"{family}.context_length": context,
            },
            "capabilities": capabilities,
            "modified_at": moment(self.began),
        }

    def _entry(self) -> dict[str, Any]:
        name = f"{self.manifest.name}{LATEST}"
        file = self.manifest.file(self.manifest.model)
        known = {"name": name, "model": name, "size": file.size, "digest": file.sha256}
        return {**known, "details": self._details()}

    @property
    def _family(self) -> str:
        """Architecture as llama.cpp names it, the first word of a model's type."""
        return self.description.model_type.partition(" ")[0]

    def _details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": PurePosixPath(self.manifest.model).suffix.lstrip("."),
            "family": self._family,
            "families": [self._family],
            "parameter_size": _short(self.description.model_n_params),
            "quantization_level": " ".join(self.description.model_type.split()[2:]),
        }


def _short(count: int) -> str:
    """Return a number of parameters as Ollama writes it: 134.5M."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
