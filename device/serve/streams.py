"""Answers on their way to a client as server-sent events (HTML standard, section 9.2).

The rule to keep: a client sees within seconds that it is being served. Its headers come at once.
While a prompt waits or is read, comments are sent: proxies and clients take a silent connection for
a dead one.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Optional

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from device.engine.base import Timing, Token
from device.errors import DeviceError
from device.serve.connection import on_end
from device.serve.job import NUDGE, Job
from device.serve.metrics import Metrics
from device.serve.parts import Part
from device.serve.replies import DONE, Reply, error_body, event, together

COMMENT_S = 3.0
COMMENT = b": keep-alive\n\n"


class Events(StreamingResponse):
    """A stream of events or lines; its end, whatever the cause, cancels the job."""

    def __init__(
        self, job: Job, events: AsyncIterator[bytes], media_type: str = "text/event-stream"
    ) -> None:
        super().__init__(events, media_type=media_type, headers={"cache-control": "no-cache"})
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What is written next tells a client that left from one that only says no more.
        on_end(scope, self._job.nudge)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def chunks(
    job: Job, reply: Reply, metrics: Metrics, include_usage: bool
) -> AsyncIterator[bytes]:
    """Yield the events of all answers to a question, and comments during silence."""
    part = Part(reply, 0)
    timings: "list[Timing | None]" = []
    for chunk in reply.opening():
        yield event(chunk)

    try:
        async for token in tokens(job, metrics, COMMENT_S):
            if token is None:
                yield COMMENT
                continue
            for chunk in part.feed(token):
                yield event(chunk)
            if not token.finish_reason:
                continue

            timings.append(token.timing)
            is_last = len(timings) == job.answers
            last = replace(token, timing=together(timings)) if is_last else token
            for chunk in part.closing(last, include_usage=include_usage and is_last):
                yield event(chunk)
            if not is_last:
                part = Part(reply, len(timings))
                for chunk in reply.opening(len(timings)):
                    yield event(chunk)
    except DeviceError as error:
        yield event(error_body(error))

    yield DONE


async def tokens(
    job: Job, counted: Metrics, silence_s: "float | None" = None
) -> AsyncIterator[Optional[Token]]:
    """Yield the steps of all answers to a question; None after each silence.

    They end early if the client leaves. Of an answer that is looked at, steps come when the guard
    has read them.
    """
    left = job.answers
    is_first = True
    held = job.held()
    loop = asyncio.get_running_loop()
    told = loop.time()
    while left:
        try:
            happened = await job.next(silence_s)
        except asyncio.TimeoutError:
            told = loop.time()
            yield None
            continue
        if happened is NUDGE:
            yield None
        if isinstance(happened, int):
            continue
        if not isinstance(happened, Token):
            return
        if is_first and job.refusal is None:  # a refused question has no first token
            counted.began(time.monotonic() - job.asked)
        is_first = False
        if happened.timing:
            counted.answered(happened.timing)

        for step in await held.feed(happened) if held else [happened]:
            told = loop.time()
            if job.hearing and not step.refusal:
                job.hearing.hear(step)
            yield step
        if happened.finish_reason:
            if held and held.refusal:
                counted.refused("answer", held.refusal.categories)
            held = job.held()
            left -= 1
            continue
        if held and held.refusal:
            job.refuse(job.answers - left)
        if silence_s and loop.time() - told > silence_s:
            told = loop.time()
            yield None  # a client must not wait in silence for what is held back
