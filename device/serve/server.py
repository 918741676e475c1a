"""OpenAI's endpoints for one model, over HTTP: the routes, what is turned away before them, and how answers travel.

The rule to keep: nothing that a client sends reaches an engine unread (api.py), unbounded, or two at a time (worker.py).
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device.engine.base import Token
from device.errors import DeviceError
from device.facts import processor_temperature
from device.manifest import Manifest
from device.serve import page
from device.serve.access import Access
from device.serve.api import READERS, read_embeddings
from device.serve.metrics import CONTENT_TYPE, Metrics
from device.serve.replies import DONE, LOADING, Reply, embeddings, error_body, event
from device.serve.worker import Job, Vectors, Worker

MAX_BODY_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 10
MAX_CONNECTIONS = 128
BODY_TIMEOUT_S = 30.0
RETRY_AFTER_S = {429: "5", 503: "2"}
_COUNTED = {*READERS, "/v1/embeddings", "/", "/health", "/v1/health", "/v1/models", "/metrics"}
_GONE = 499
"""nginx's status for a client that has left: nobody reads it."""


@dataclass(frozen=True)
class Service:
    """What the routes answer from."""

    manifest: Manifest
    release: str
    worker: Worker
    metrics: Metrics = field(default_factory=Metrics)


def server(service: Service, access: Access) -> uvicorn.Server:
    """Return what serves a port until its `should_exit` is set."""
    return uvicorn.Server(_config(application(service, access)))


def application(service: Service, access: Access) -> Starlette:
    """Return the routes of a service behind its gate."""
    routes = [Route(path, _answer, methods=["POST"]) for path in READERS]
    routes += [Route("/v1/embeddings", _embeddings, methods=["POST"])]
    routes += [Route(path, _health) for path in ("/health", "/v1/health")]
    routes += [Route("/v1/models", _models), Route("/v1/models/{name:path}", _model)]
    routes += [Route("/", _page), Route("/metrics", _metrics)]
    handlers: Any = {DeviceError: _refused, HTTPException: _no_route, Exception: _broken}
    app = Starlette(
        routes=routes,
        exception_handlers=handlers,
        middleware=[Middleware(_Count, metrics=service.metrics), Middleware(_Gate, access=access)],
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


class _Count:
    """Counts each reply, by the path of a route: a stranger's paths are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in _COUNTED else "other"
                self._metrics.replied(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class _Gate:
    """Turns away what access.py refuses, before any route sees it."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(scope)
        error = _too_long(scope) or self._access.refusal(request.url.path, request.headers)
        await (_error(error) if error else self._app)(scope, receive, send)


def _too_long(scope: Scope) -> "DeviceError | None":
    """Return an error for a head that is too long though it came in one piece, which h11 lets pass."""
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    return (
        DeviceError(
            "too_large", f"the headers are larger than {MAX_HEADER_BYTES >> 10} KiB", status=431
        )
        if size > MAX_HEADER_BYTES
        else None
    )


async def _answer(request: Request) -> Response:
    service: Service = request.app.state.service
    question = READERS[request.url.path](await _body(request), service.manifest.max_tokens)
    if service.worker.model is None:
        return _loading()
    job, reply = service.worker.submit(question), Reply(service.manifest.name, question.chat)
    watch = asyncio.create_task(_watch(request, job))
    try:
        if await job.next() is None:
            return Response(status_code=_GONE)
        if question.stream:
            return _Events(
                job, _chunks(_tokens(job, service.metrics), reply, question.include_usage)
            )
        return await _whole(_tokens(job, service.metrics), reply)
    finally:
        watch.cancel()


async def _embeddings(request: Request) -> Response:
    service: Service = request.app.state.service
    texts = read_embeddings(await _body(request))
    if service.worker.model is None:
        return _loading()
    job = service.worker.submit(texts)
    watch = asyncio.create_task(_watch(request, job))
    try:
        found = await job.next()
    finally:
        watch.cancel()
    if not isinstance(found, Vectors):
        return Response(status_code=_GONE)
    return JSONResponse(
        embeddings(service.manifest.name, found.vectors, found.tokens, packed=texts.base64)
    )


async def _whole(tokens: AsyncIterator[Token], reply: Reply) -> Response:
    steps = []
    async for token in tokens:
        steps.append(token)
        if token.finish_reason:
            return JSONResponse(reply.whole(steps))
    return Response(status_code=_GONE)


async def _chunks(
    tokens: AsyncIterator[Token], reply: Reply, include_usage: bool
) -> AsyncIterator[bytes]:
    for chunk in reply.opening():
        yield event(chunk)
    sent = 0
    try:
        async for token in tokens:
            if token.text or token.candidates:
                yield event(reply.chunk(token, sent))
                sent += len(token.text)
            for chunk in (
                reply.closing(token, include_usage=include_usage) if token.finish_reason else []
            ):
                yield event(chunk)
    except DeviceError as error:
        yield event(error_body(error))
    yield DONE


async def _tokens(job: Job, counted: Metrics) -> AsyncIterator[Token]:
    """Yield the steps of an answer up to its end, or to where the client left."""
    while isinstance(token := await job.next(), Token):
        if token.timing:
            counted.answered(token.timing)
        yield token
        if token.finish_reason:
            return


class _Events(StreamingResponse):
    """A stream of events whose end, whatever the cause, ends the job."""

    def __init__(self, job: Job, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(
            chunks, media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def _watch(request: Request, job: Job) -> None:
    """Cancel a job when its client leaves before the answer begins."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
    job.cancel()


async def _body(request: Request) -> bytes:
    try:
        return await asyncio.wait_for(_bounded(request), BODY_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise DeviceError(
            "timeout", f"the body did not come within {BODY_TIMEOUT_S:.0f} s", status=408
        ) from error
    except ClientDisconnect as error:
        raise DeviceError(
            "client_gone", "the client left before its request was whole", status=_GONE
        ) from error


async def _bounded(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise DeviceError(
                "too_large", f"the body is larger than {MAX_BODY_BYTES >> 20} MiB", status=413
            )
    return bytes(body)


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.worker.model is None:
        return _loading()
    engine, manifest = service.worker.model.engine, service.manifest
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
    return JSONResponse({"status": "ok", **what, **how, "temperature_c": processor_temperature()})


async def _page(request: Request) -> Response:
    html = page.page()
    return Response(html, media_type="text/html", headers=page.headers(html))


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
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
    return JSONResponse({"object": "list", "data": [_card(request.app.state.service.manifest)]})


async def _model(request: Request) -> Response:
    card, name = _card(request.app.state.service.manifest), request.path_params["name"]
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
    return JSONResponse(LOADING, 503, headers={"retry-after": RETRY_AFTER_S[503]})


def _error(error: DeviceError) -> Response:
    headers = {"retry-after": RETRY_AFTER_S[error.status]} if error.status in RETRY_AFTER_S else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers=headers)


async def _refused(request: Request, error: DeviceError) -> Response:
    return _error(error)


async def _no_route(request: Request, error: HTTPException) -> Response:
    what = (
        "is not an endpoint of this service"
        if error.status_code == 404
        else f"does not take {request.method}"
    )
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    body = error_body(
        DeviceError(code, f"`{request.url.path[:80]}` {what}", status=error.status_code)
    )
    return JSONResponse(body, error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return _error(DeviceError("internal_error", "the service failed to answer, its log says why"))


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=5,
    )
