"""OpenAI's Responses API, stateless: /v1/responses, for clients that begin there.

Another form of what /v1/chat/completions answers. Questions go the same way, from access.py to the
counters; nothing is stored, so there is nothing to fetch, to cancel or to delete.
"""

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from device.engine.base import FieldError
from device.errors import DeviceError
from device.serve.body import read_object
from device.serve.job import Job
from device.serve.metrics import Metrics
from device.serve.replies import LOADING
from device.serve.responses_replies import PREFIX, Answer, event_of
from device.serve.responses_requests import read_response, renamed
from device.serve.service import GONE, ask, read_body, service_of, steps_of, unavailable
from device.serve.streams import COMMENT, COMMENT_S, Events, tokens

PATH = "/v1/responses"


def routes() -> list[Route]:
    """Return the routes of the Responses API."""
    return [Route(PATH, _answer, methods=["POST"])]


async def _answer(request: Request) -> Response:
    service = service_of(request)
    asked = read_response(read_object(await read_body(request)), service.manifest.max_tokens)
    if service.worker.model is None:
        return unavailable(LOADING)

    try:
        job, reply = await ask(service, asked.question, PREFIX)
    except FieldError as error:  # what an engine cannot do
        raise renamed(error) from error

    answer = Answer(reply, asked.shown)
    if asked.question.stream:
        return Events(job, _events(job, answer, service.metrics))

    steps = await steps_of(request, job)
    return JSONResponse(answer.whole(steps)) if steps else Response(status_code=GONE)


async def _events(job: Job, answer: Answer, metrics: Metrics) -> AsyncIterator[bytes]:
    """Yield the events of an answer, and comments during silence."""
    for event in answer.opening():
        yield event_of(event)
    try:
        async for step in tokens(job, metrics, COMMENT_S):
            if step is None:
                yield COMMENT
                continue
            for event in answer.feed(step):
                yield event_of(event)
    except DeviceError as error:
        yield event_of(answer.failed(error))
