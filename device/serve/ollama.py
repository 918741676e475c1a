"""Ollama's API, the side that reads: conversations, prompts, embeddings, and what is served.

Models are brought by a push, never over this API: what would change one is refused. Questions go
the way of OpenAI's endpoints, from access.py to the counters.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from device.engine.base import Sampling
from device.errors import DeviceError
from device.model import Model
from device.serve.api import Question, Texts
from device.serve.body import read_object
from device.serve.job import Job
from device.serve.metrics import Metrics
from device.serve.ollama_replies import API_VERSION, Answer, Card, error_body, line_of
from device.serve.ollama_requests import (
    Served,
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
    read_show,
)
from device.serve.replies import Reply
from device.serve.service import (
    GONE,
    Service,
    ask,
    read_body,
    service_of,
    steps_of,
    unavailable,
    vectors_of,
)
from device.serve.streams import COMMENT_S, Events, tokens

NDJSON = "application/x-ndjson"
READERS: dict[str, Callable[[Mapping[str, Any], Served], "Question | None"]] = {
    "/api/chat": read_chat,
    "/api/generate": read_generate,
}
"""Path → function that reads its request for an answer."""
TEXT_READERS: dict[str, Callable[[Mapping[str, Any], Served], Texts]] = {
    "/api/embed": read_embed,
    "/api/embeddings": read_embeddings,
}
"""Path → function that reads its request for vectors."""
CHANGES = ("pull", "push", "create", "copy", "delete", "blobs/{digest}")
"""What Ollama's API has to change models with; refused here."""
PATHS = (*READERS, *TEXT_READERS, "/api/version", "/api/tags", "/api/ps", "/api/show")
"""Paths that are answered."""
_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
_GRAMMAR = 'root ::= "a"'


def routes() -> list[Route]:
    """Return the routes of Ollama's API."""
    found = [Route(path, _answer, methods=["POST"]) for path in READERS]
    found += [Route(path, _vectors, methods=["POST"]) for path in TEXT_READERS]
    found += [Route("/api/version", _version), Route("/api/tags", _tags), Route("/api/ps", _ps)]
    found += [Route("/api/show", _show, methods=["POST"])]
    found += [Route(f"/api/{path}", _change, methods=_METHODS) for path in CHANGES]
    return found


async def _answer(request: Request) -> Response:
    began_ns = time.perf_counter_ns()
    service = service_of(request)
    path = request.url.path
    question = READERS[path](read_object(await read_body(request)), _served(service))
    if service.worker.model is None:
        return _loading()
    if question is None:
        reply = Reply(service.manifest.name, chat=True)
        return JSONResponse(Answer(reply, path, began_ns).loaded())

    job, reply = await ask(service, question)
    answer = Answer(reply, path, began_ns)
    if question.stream:
        return Events(job, _lines(job, answer, service.metrics), NDJSON)

    steps = await steps_of(request, job)
    return JSONResponse(answer.whole(steps)) if steps else Response(status_code=GONE)


async def _lines(job: Job, answer: Answer, metrics: Metrics) -> AsyncIterator[bytes]:
    """Yield the lines of an answer; during silence, lines without a text."""
    try:
        async for step in tokens(job, metrics, COMMENT_S):
            for line in answer.feed(step) if step else [answer.line()]:
                yield line_of(line)
    except DeviceError as error:
        yield line_of(error_body(error))


async def _vectors(request: Request) -> Response:
    began_ns = time.perf_counter_ns()
    service = service_of(request)
    path = request.url.path
    texts = TEXT_READERS[path](read_object(await read_body(request)), _served(service))
    if service.worker.model is None:
        return _loading()

    found = await vectors_of(request, texts)
    if found is None:
        return Response(status_code=GONE)
    if path == "/api/embeddings":
        return JSONResponse({"embedding": found.vectors[0]})

    return JSONResponse(
        {
            "model": service.manifest.name,
            "embeddings": found.vectors,
            "total_duration": time.perf_counter_ns() - began_ns,
            "load_duration": 0,
            "prompt_eval_count": found.tokens,
        }
    )


async def _version(request: Request) -> Response:
    return JSONResponse({"version": API_VERSION})


async def _tags(request: Request) -> Response:
    service = service_of(request)
    model = service.worker.model
    return JSONResponse({"models": [_card(service, model).listed()]}) if model else _loading()


async def _ps(request: Request) -> Response:
    service = service_of(request)
    model = service.worker.model
    if model is None:
        return JSONResponse({"models": []})
    return JSONResponse({"models": [_card(service, model).running(model.engine.context)]})


async def _show(request: Request) -> Response:
    service = service_of(request)
    read_show(read_object(await read_body(request)), _served(service))
    model = service.worker.model
    if model is None:
        return _loading()
    shown = _card(service, model).shown(model.engine.context, _capabilities(model))
    return JSONResponse(shown)


async def _change(request: Request) -> Response:
    raise DeviceError(
        "method_not_allowed",
        "models are not changed over this API",
        hint="push a bundle to the board",
        status=405,
    )


def _capabilities(model: Model) -> list[str]:
    """Return what the model can do, as Ollama names it."""
    able = ["completion"]
    if model.template and _takes(model, Sampling(grammar=_GRAMMAR)):
        able.append("tools")
    if _takes(model, None):
        able.append("embedding")
    if model.engine.picture_marker:
        able.append("vision")
    return able


def _takes(model: Model, sampling: "Sampling | None") -> bool:
    """Say whether the engine answers with a sampling, or makes vectors if there is none."""
    try:
        model.engine.check((0,), sampling)
    except DeviceError:
        return False
    return True


def _served(service: Service) -> Served:
    manifest = service.manifest
    return Served(manifest.name, manifest.max_tokens)


def _card(service: Service, model: Model) -> Card:
    return Card(service.manifest, model.engine.description, service.began)


def _loading() -> Response:
    return unavailable({"error": "the model is loading; try again in a moment"})
