"""What people think of answers: the last answers that may be rated, and what is kept of them.

`POST /v1/feedback {"id", "rating": 1 | -1, "answer"}` rates an answer by its id, with the answer
that would have been right. A question that the documents could not answer is kept by itself. The
rule to keep: where the bundle does not ask for it, nothing is remembered and nothing is written.
Standard library only.
"""

import asyncio
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device.engine.base import FieldError, Token
from device.errors import DeviceError
from device.feedback import Ring, ring_of
from device.manifest import Manifest
from device.serve.api import Question
from device.serve.body import read_object
from device.serve.metrics import Metrics

MAX_BODY_BYTES = 64 << 10
MAX_CHARS = 8000
"""Maximum characters of a question, of an answer, and of the messages before a question."""
MAX_REMEMBERED = 512
"""Answers that can be rated, the newest ones: 24 kB each at most."""
MAX_A_MINUTE = 120
"""Rows that are kept in a minute, at most."""
# A row is an fsync on a card that wears out, and nobody rates two answers a second.
_MAX_WRITING = 8
UP, DOWN = 1, -1
KINDS = {UP: "up", DOWN: "down", 0: "correction"}


@dataclass(frozen=True)
class Answered:
    """An answer that may be rated."""

    id: str
    question: str
    before: tuple[Mapping[str, Any], ...]
    """Messages before the question, as far as they have room."""
    answer: str
    known: "bool | None"
    """Whether the documents know; None where there are none, or it was not about them."""

    def row(self, release: str, rating: int, correction: str) -> "dict[str, Any]":
        """Return what is kept of it."""
        optional = {"correction": correction, "before": list(self.before)}
        return {
            "id": self.id,
            "release": release,
            "question": self.question,
            "answer": self.answer,
            "rating": rating,
            "known": self.known,
            **{name: value for name, value in optional.items() if value},
        }


@dataclass
class Hearing:
    """An answer while it comes."""

    feedback: "Feedback"
    id: str
    question: Question
    known: "bool | None"
    pieces: "list[str]" = field(default_factory=list)
    chars: int = 0

    def hear(self, token: Token) -> None:
        """Take a step of the answer; remember the answer when it has ended."""
        self.chars += len(token.text)
        if self.chars <= MAX_CHARS:
            self.pieces.append(token.text)
        if token.finish_reason:
            self.feedback.remember(self)


@dataclass(frozen=True)
class Rated:
    """A request of /v1/feedback."""

    id: str
    rating: int
    """1, -1, or 0 where only the right answer is given."""
    answer: str


class Feedback:
    """The answers that may be rated, and the ring in which ratings are kept.

    Used in the event loop's thread; rows are written in a thread of their own.
    """

    def __init__(self, ring: Ring, release: str, metrics: Metrics) -> None:
        self._ring = ring
        self._release = release
        self._metrics = metrics
        self._answers: "OrderedDict[str, Answered]" = OrderedDict()
        self._times: "deque[float]" = deque(maxlen=MAX_A_MINUTE)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._writing = 0
        self._tasks: "set[asyncio.Task[None]]" = set()

    def listen(self, name: str, question: Question, known: "bool | None") -> "Hearing | None":
        """Return who hears the answer to a question; None if it cannot be rated."""
        if not question.chat or question.messages[-1]["role"] != "user":
            return None
        if question.answers > 1 or question.tools:
            return None  # one id stands for one answer in words
        if question.sees:
            return None  # a row without its picture teaches nothing
        return Hearing(self, name, question, known)

    def remember(self, heard: Hearing) -> None:
        """Remember an answer that has ended; keep its question if the documents do not know."""
        *before, last = heard.question.messages
        question = str(last["content"])
        if max(heard.chars, len(question)) > MAX_CHARS:
            return

        answered = Answered(
            heard.id, question, _fitting(before), "".join(heard.pieces), heard.known
        )
        self._answers[heard.id] = answered
        if len(self._answers) > MAX_REMEMBERED:
            self._answers.popitem(last=False)

        if heard.known is False:
            task = asyncio.get_running_loop().create_task(self._keep_unknown(answered))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def rate(self, body: bytes) -> "dict[str, Any]":
        """Keep a rating and return the reply; raise DeviceError."""
        rated = read_rating(body)
        answered = self._answers.get(rated.id)
        if answered is None:
            raise DeviceError(
                "unknown_answer",
                "no answer of this id is remembered",
                hint=f"the last {MAX_REMEMBERED} whole answers since the service began can be "
                "rated",
                status=404,
            )
        await self._keep(answered, KINDS[rated.rating], rated.rating, rated.answer)
        return {"object": "feedback", "id": rated.id, "kept": True}

    def close(self) -> None:
        """Finish what is being written."""
        self._writer.shutdown()

    async def _keep_unknown(self, answered: Answered) -> None:
        try:
            await self._keep(answered, "unknown", 0, "")
        except DeviceError as error:
            if error.status != 429:
                print(f"feedback is not kept: {error.message}", file=sys.stderr, flush=True)

    async def _keep(self, answered: Answered, kind: str, rating: int, correction: str) -> None:
        try:
            self._refuse_flood()
            self._writing += 1
            row = {"kind": kind, **answered.row(self._release, rating, correction)}
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._writer, self._ring.append, row)
            finally:
                self._writing -= 1
        except (DeviceError, RuntimeError) as error:
            self._metrics.noted("lost")
            if isinstance(error, DeviceError):
                raise
            raise DeviceError("stopping", "the service is going down", status=503) from error

        self._metrics.noted(kind)

    def _refuse_flood(self) -> None:
        now = time.monotonic()
        full = len(self._times) == MAX_A_MINUTE and now - self._times[0] < 60
        if full or self._writing >= _MAX_WRITING:
            raise DeviceError(
                "busy", "too many ratings at once", hint="try again later", status=429
            )
        self._times.append(now)


def feedback_for(
    bundle: Path, manifest: Manifest, release: str, metrics: Metrics
) -> "Feedback | None":
    """Return where a service keeps what people think; None if its bundle does not ask for it.

    A bundle outside of a store has no disk of its own.
    """
    ring = ring_of(bundle, manifest.feedback_bytes)
    return Feedback(ring, release, metrics) if ring else None


def read_rating(body: bytes) -> Rated:
    """Read a request of /v1/feedback; raise DeviceError."""
    if len(body) > MAX_BODY_BYTES:
        limit = f"{MAX_BODY_BYTES >> 10} KiB"
        raise DeviceError("too_large", f"the body is larger than {limit}", status=413)

    fields = {name: value for name, value in read_object(body).items() if value is not None}
    if unknown := set(fields) - {"id", "rating", "answer"}:
        raise FieldError(min(unknown)[:80], "is not a field of this request", code="unknown_field")

    name, rating, answer = fields.get("id"), fields.get("rating", 0), fields.get("answer", "")
    if not isinstance(name, str) or not name:
        raise FieldError("id", "must be the id of an answer")
    if type(rating) is not int or ("rating" in fields and rating not in (UP, DOWN)):
        raise FieldError("rating", f"must be {UP} or {DOWN}")
    if not isinstance(answer, str) or len(answer) > MAX_CHARS:
        raise FieldError("answer", f"must be a text of at most {MAX_CHARS} characters")
    if not rating and not answer.strip():
        raise FieldError("rating", "is missing, and so is `answer`")

    return Rated(name, rating, answer.strip())


def _fitting(messages: "Sequence[Mapping[str, Any]]") -> "tuple[Mapping[str, Any], ...]":
    """Return the newest messages that have room together, without instructions."""
    room = MAX_CHARS
    kept: "list[Mapping[str, Any]]" = []
    for message in reversed(messages):
        text = str(message["content"])
        room -= len(text)
        if message["role"] not in ("user", "assistant") or room < 0:
            break
        kept.append({"role": message["role"], "content": text})
    return tuple(reversed(kept))
