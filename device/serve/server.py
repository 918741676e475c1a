"""OpenAI's endpoints for one model over HTTP: the routes, and how answers travel.

Ollama's are beside them (ollama.py). service.py has what both share.

The rule to keep: nothing that a client sends reaches an engine unread (api.py), unbounded, or two
at a time (worker.py).
"""

import re
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from device.errors import DeviceError
from device.facts import processor_temperature
from device.manifest import Manifest
from device.serve import moderations, ollama, page, responses
from device.serve.access import Access
from device.serve.api import READERS, read_embeddings, read_lookup
from device.serve.body import read_object
from device.serve.connection import KEEP_ALIVE_S, Connection
from device.serve.gate import MAX_HEADER_BYTES, Count, Gate, error_response
from device.serve.metrics import CONTENT_TYPE
from device.serve.replies import LOADING, embeddings, passage
from device.serve.service import GONE, ask, read_body, service_of, steps_of, unavailable, vectors_of
from device.serve.service import Service as Service
from device.serve.streams import Events, chunks

_SPEECH = "it reads and writes text; speech is the work of other services"
_COUNTED = {
    *READERS,
    responses.PATH,
    "/v1/embeddings",
    moderations.PATH,
    "/v1/knowledge",
    "/v1/feedback",
    "/",
    "/health",
    "/v1/health",
    "/v1/models",
    "/metrics",
    *ollama.PATHS,
}


def server(service: Service, access: Access) -> uvicorn.Server:
    """Return a server for a port; it serves until its `should_exit` is set."""
    return uvicorn.Server(_config(application(service, access)))


def application(service: Service, access: Access) -> Starlette:
    """Return the routes of a service behind its middleware."""
    routes = [Route(path, _answer, methods=["POST"]) for path in READERS]
    routes += [Route("/v1/embeddings", _embeddings, methods=["POST"])]
    routes += [Route(moderations.PATH, _moderations, methods=["POST"])]
    routes += [Route("/v1/knowledge", _knowledge), Route("/v1/knowledge/{number}", _passage)]
    routes += [Route("/v1/feedback", _feedback, methods=["POST"])]
    routes += [Route(path, _health) for path in ("/health", "/v1/health")]
    routes += [Route("/v1/models", _models), Route("/v1/models/{name:path}", _model)]
    routes += [Route("/", _page), Route("/metrics", _metrics)]
    routes += responses.routes()
    routes += ollama.routes()
    handlers: Any = {DeviceError: _refused, HTTPException: _no_route, Exception: _broken}
    app = Starlette(
        routes=routes,
        exception_handlers=handlers,
        middleware=[
            Middleware(Count, metrics=service.metrics, paths=_COUNTED),
            Middleware(Gate, access=access),
        ],
    )
    app.router.redirect_slashes = False
    app.state.service = service

    return app


async def _answer(request: Request) -> Response:
    service = service_of(request)
    question = READERS[request.url.path](await read_body(request), service.manifest.max_tokens)
    if service.worker.model is None:
        return _loading()

    job, reply = await ask(service, question)
    if question.stream:
        return Events(job, chunks(job, reply, service.metrics, question.include_usage))

    steps = await steps_of(request, job)
    return JSONResponse(reply.whole(steps)) if steps else Response(status_code=GONE)


async def _embeddings(request: Request) -> Response:
    service = service_of(request)
    texts = read_embeddings(await read_body(request))
    if service.worker.model is None:
        return _loading()

    found = await vectors_of(request, texts)
    if found is None:
        return Response(status_code=GONE)

    return JSONResponse(
        embeddings(service.manifest.name, found.vectors, found.tokens, packed=texts.base64)
    )


async def _moderations(request: Request) -> Response:
    """Say what texts ask for."""
    service = service_of(request)
    texts = moderations.read_moderation(read_object(await read_body(request)))
    screen = service.worker.screen
    if screen is None:
        raise DeviceError(
            "not_found",
            "this service has no guard",
            hint="a recipe with a `[guard]` table trains one",
            status=404,
        )
    verdicts = await service.worker.judge(texts)
    return JSONResponse(moderations.moderation(service.manifest.name, screen.guard, verdicts))


async def _knowledge(request: Request) -> Response:
    """Return the passages nearest to `q`, at most `take`, the best first."""
    service = service_of(request)
    question, take = read_lookup(request.query_params)
    if service.worker.model is None:
        return _loading()

    hits = await service.worker.look_up(question, take)
    if hits is None:
        raise _no_documents()
    return JSONResponse({"object": "list", "data": [passage(hit) for hit in hits]})


async def _passage(request: Request) -> Response:
    service = service_of(request)
    if service.worker.model is None:
        return _loading()

    if not service.manifest.knowledge:
        raise _no_documents()

    number = request.path_params["number"]
    is_number = re.fullmatch("[0-9]{1,9}", number)
    hit = await service.worker.passage(int(number)) if is_number else None
    if hit is None:
        raise DeviceError("not_found", "this service has no such passage", status=404)
    return JSONResponse(passage(hit))


def _no_documents() -> DeviceError:
    return DeviceError("not_found", "this service answers from no documents", status=404)


async def _feedback(request: Request) -> Response:
    """Keep what somebody thinks of an answer."""
    service = service_of(request)
    body = await read_body(request)
    if service.feedback is None:
        raise DeviceError("not_found", "this service keeps no feedback", status=404)
    return JSONResponse(await service.feedback.rate(body))


async def _health(request: Request) -> Response:
    service = service_of(request)
    if service.worker.model is None:
        return _loading()

    engine = service.worker.model.engine
    manifest = service.manifest
    loaded = engine.description
    what = {
        "model": manifest.name,
        "version": manifest.version,
        "release": service.release,
        "model_type": loaded.model_type,
    }
    how = {
        "engine": loaded.engine,
        "engine_version": loaded.version,
        "context": engine.context,
        "threads": loaded.threads,
    }
    how["slots"] = service.worker.slots
    if manifest.knowledge:
        how["documents"] = {"passages": service.worker.passages, "answer": manifest.answer}
    if service.feedback:
        how["feedback"] = True
    if service.manifest.projector:
        how["pictures"] = True
    if service.worker.screen:
        how["guard"] = {"refuse": manifest.refuse}

    return JSONResponse({"status": "ok", **what, **how, "temperature_c": processor_temperature()})


async def _page(request: Request) -> Response:
    html = page.page()
    return Response(html, media_type="text/html", headers=page.headers(html))


async def _metrics(request: Request) -> Response:
    service = service_of(request)
    labels = {
        "model": service.manifest.name,
        "version": service.manifest.version,
        "release": service.release,
    }
    text = service.metrics.text(
        waiting=service.worker.waiting, temperature_c=processor_temperature(), labels=labels
    )
    return Response(text, media_type=CONTENT_TYPE)


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_card(service_of(request).manifest)]})


async def _model(request: Request) -> Response:
    card = _card(service_of(request).manifest)
    name = request.path_params["name"]
    if name != card["id"]:
        raise DeviceError(
            "model_not_found",
            f"there is no model `{name[:80]}` here",
            hint=f"this is `{card['id']}`",
            status=404,
        )

    return JSONResponse(card)


def _card(manifest: Manifest) -> dict[str, Any]:
    return {
        "id": manifest.name,
        "object": "model",
        "created": 0,
        "owned_by": "demitasse",
        "context_length": manifest.context,
    }


def _loading() -> Response:
    return unavailable(LOADING)


async def _refused(request: Request, error: DeviceError) -> Response:
    return error_response(error, request.url.path)


async def _no_route(request: Request, error: HTTPException) -> Response:
    what = (
        "is not an endpoint of this service"
        if error.status_code == 404
        else f"does not take {request.method}"
    )
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    path = request.url.path
    hint = _SPEECH if path.startswith("/v1/audio/") else ""
    refusal = DeviceError(code, f"`{path[:80]}` {what}", hint=hint, status=error.status_code)
    return error_response(refusal, path, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return error_response(
        DeviceError("internal_error", "the service failed to answer, its log says why"),
        request.url.path,
    )


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        # Each malformed request would be a warning, and strangers must not fill the log.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=2 * round(KEEP_ALIVE_S),  # never uvicorn's: connection.py closes before
        timeout_graceful_shutdown=5,
    )
