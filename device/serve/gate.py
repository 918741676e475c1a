"""The middleware before the routes: counts replies, refuses strangers, answers preflights."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device.errors import DeviceError
from device.serve import ollama_replies
from device.serve.access import Access
from device.serve.metrics import Metrics
from device.serve.replies import error_body

MAX_HEADER_BYTES = 16 << 10
OLLAMA = "/api/"
"""How all paths of Ollama's API begin."""
RETRY_AFTER_S = {429: "5", 503: "2"}


class Count:
    """Counts each reply by the path of its route; all unknown paths count as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            """Count the status of a reply and send it on."""
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.replied(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class Gate:
    """Refuses what access.py does not allow, before any route sees it, and answers preflights."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        request = Request(scope)
        origin = self._access.allowed_origin(request.headers)
        error = _too_long(scope) or self._access.refusal(
            request.url.path, request.headers, preflight=_is_preflight(request)
        )
        if error:
            app: ASGIApp = error_response(error, request.url.path)
        elif origin and _is_preflight(request):
            app = _preflight(request.headers)
        else:
            app = self._app

        await app(scope, receive, _told(send, origin) if origin else send)


def error_response(
    error: DeviceError, path: str, more: "Mapping[str, str] | None" = None
) -> Response:
    """Return an error in the form of the API that a path belongs to, OpenAI's or Ollama's.

    It has the headers that belong to its status: `retry-after` and `www-authenticate`.
    """
    headers = dict(more or {})
    if error.status in RETRY_AFTER_S:
        headers["retry-after"] = RETRY_AFTER_S[error.status]
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = ollama_replies.error_body if path.startswith(OLLAMA) else error_body
    return JSONResponse(body(error), error.status, headers=headers)


def _too_long(scope: Scope) -> "DeviceError | None":
    """Return the error of headers that are too long but came in one piece, which h11 accepts."""
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size <= MAX_HEADER_BYTES:
        return None
    message = f"the headers are larger than {MAX_HEADER_BYTES >> 10} KiB"
    return DeviceError("too_large", message, status=431)


def _is_preflight(request: Request) -> bool:
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def _preflight(asked: Headers) -> Response:
    """Return the headers that let a page send its request (Fetch standard, CORS-preflight).

    Whether the page may do so is decided by access.py.
    """
    allowed = {"access-control-allow-methods": "GET, POST", "access-control-max-age": "600"}
    # Named one by one: `*` leaves out `authorization`, and clients send headers of their own
    # (x-stainless-…).
    if names := asked.get("access-control-request-headers"):
        allowed["access-control-allow-headers"] = names

    if asked.get("access-control-request-private-network") == "true":
        allowed["access-control-allow-private-network"] = "true"

    return Response(status_code=204, headers=allowed)


def _told(send: Send, origin: str) -> Send:
    """Add the header that lets pages of an origin read the reply, to refusals too."""

    async def sent(message: Message) -> None:
        """Add the headers to the head of a reply and send it on."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "retry-after"
            headers.add_vary_header("origin")
        await send(message)

    return sent
