"""What the routes of all APIs share: the model with its queue, bodies, answers that are watched.

The rule to keep: whatever form a question has on the wire, it becomes one `Question` or `Texts`,
waits in one queue and is counted in one place. A path of Ollama's API differs in its form only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from device.engine.base import Token
from device.errors import DeviceError
from device.manifest import Manifest
from device.serve.api import Question, Texts
from device.serve.feedback import Feedback
from device.serve.gate import RETRY_AFTER_S
from device.serve.job import Job, Vectors
from device.serve.metrics import Metrics
from device.serve.replies import Reply
from device.serve.streams import tokens
from device.serve.worker import Worker

MAX_BODY_BYTES = 1 << 20
MAX_SEEN_BODY_BYTES = 4 << 20
"""Maximum bytes of a request where the model sees: a picture of 2 MiB in base64, and text."""
MAX_BODIES_BYTES = 16 << 20
"""Maximum bytes of all requests that are being read at the same time."""
BODY_TIMEOUT_S = 30.0
GONE = 499
"""nginx's status for a client that has left: nobody reads it."""


@dataclass
class Service:
    """What the routes share."""

    manifest: Manifest
    release: str
    worker: Worker
    metrics: Metrics = field(default_factory=Metrics)
    feedback: "Feedback | None" = None
    """What people think of answers; None where the bundle does not ask for it."""
    bodies_bytes: int = 0
    """Bytes of the requests that are being read."""
    began: float = field(default_factory=time.time)
    """When the service began, in seconds since 1970."""


def service_of(request: Request) -> Service:
    """Return the service that a request came to."""
    service: Service = request.app.state.service
    return service


async def ask(service: Service, question: Question, prefix: str = "") -> tuple[Job, Reply]:
    """Queue a question; return it with the answer in progress.

    The id of the answer begins with `prefix`, or as /v1/chat/completions and /v1/completions do.
    """
    job = await service.worker.ask(question)
    if job.refusal:
        service.metrics.refused("question", job.refusal.categories)
    asked = job.question
    markup = asked.markup if isinstance(asked, Question) else None
    reply = Reply(service.manifest.name, question.chat, job.consulted, markup, prefix)
    if service.feedback and not job.refusal:
        known = job.consulted.found.known if job.consulted else None
        job.hearing = service.feedback.listen(reply.name, question, known)
    return job, reply


@asynccontextmanager
async def watched(request: Request, job: Job) -> AsyncIterator[None]:
    """Cancel a job if its client leaves before the end of the block."""
    watch = asyncio.create_task(_watch(request, job))
    try:
        yield
    finally:
        watch.cancel()


async def _watch(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
    job.cancel()


async def steps_of(request: Request, job: Job) -> list[Token]:
    """Return the steps of all answers to a question; none if its client left before their end."""
    async with watched(request, job):
        steps = [step async for step in tokens(job, service_of(request).metrics) if step]
    return steps if steps and steps[-1].finish_reason else []


async def vectors_of(request: Request, texts: Texts) -> "Vectors | None":
    """Return the vectors of texts; None if their client left before."""
    job = await service_of(request).worker.ask(texts)
    async with watched(request, job):
        found = await job.next()
    return found if isinstance(found, Vectors) else None


async def read_body(request: Request) -> bytes:
    """Return the body of a request; raise DeviceError if it is too large, or does not come."""
    service = service_of(request)
    body = bytearray()
    try:
        await asyncio.wait_for(_read(request, body, service), BODY_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise DeviceError(
            "timeout", f"the body did not come within {BODY_TIMEOUT_S:.0f} s", status=408
        ) from error
    except ClientDisconnect as error:
        raise DeviceError(
            "client_gone", "the client left before its request was whole", status=GONE
        ) from error
    finally:
        service.bodies_bytes -= len(body)

    return bytes(body)


async def _read(request: Request, body: bytearray, service: Service) -> None:
    """Read a body; raise DeviceError if it is too large, or all bodies together are."""
    most = MAX_SEEN_BODY_BYTES if service.manifest.projector else MAX_BODY_BYTES
    async for chunk in request.stream():
        body += chunk
        service.bodies_bytes += len(chunk)
        if len(body) > most:
            raise DeviceError("too_large", f"the body is larger than {most >> 20} MiB", status=413)
        if service.bodies_bytes > MAX_BODIES_BYTES:
            raise DeviceError("busy", "too many requests are being sent", status=503)


def unavailable(body: Mapping[str, object]) -> Response:
    """Return the reply of a service whose model is not loaded yet."""
    return JSONResponse(dict(body), 503, headers={"retry-after": RETRY_AFTER_S[503]})
