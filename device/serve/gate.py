"""What stands before the routes: replies are counted, strangers turned away, and allowed pages told that they may read."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from device.errors import DeviceError
from device.serve.access import Access
from device.serve.metrics import Metrics
from device.serve.replies import error_body

MAX_HEADER_BYTES = 16 << 10
RETRY_AFTER_S = {429: "5", 503: "2"}


class Count:
    """Counts each reply, by the path of a route: a stranger's paths are one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.replied(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class Gate:
    """Turns away what access.py refuses, before any route sees it, and answers what browsers ask before they ask."""

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
            app: ASGIApp = error_response(error)
        elif origin and _is_preflight(request):
            app = _preflight(request.headers)
        else:
            app = self._app
        await app(scope, receive, _told(send, origin) if origin else send)


def error_response(error: DeviceError) -> Response:
    """Return an error in OpenAI's shape, with when to come back and how to prove who one is."""
    headers = {"retry-after": RETRY_AFTER_S[error.status]} if error.status in RETRY_AFTER_S else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), error.status, headers=headers)


def _too_long(scope: Scope) -> "DeviceError | None":
    """Return an error for a head that is too long though it came in one piece, which h11 lets pass."""
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size <= MAX_HEADER_BYTES:
        return None
    message = f"the headers are larger than {MAX_HEADER_BYTES >> 10} KiB"
    return DeviceError("too_large", message, status=431)


def _is_preflight(request: Request) -> bool:
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers


def _preflight(asked: Headers) -> Response:
    """Allow a page what it is about to send; which page may is access.py's to say (Fetch standard, CORS-preflight)."""
    allowed = {"access-control-allow-methods": "GET, POST", "access-control-max-age": "600"}
    # Named one by one: `*` leaves out `authorization`, and clients send headers of their own (x-stainless-…).
    if names := asked.get("access-control-request-headers"):
        allowed["access-control-allow-headers"] = names
    if asked.get("access-control-request-private-network") == "true":
        allowed["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=allowed)


def _told(send: Send, origin: str) -> Send:
    """Have every reply say that pages of an origin may read it, refusals too."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = "retry-after"
            headers.add_vary_header("origin")
        await send(message)

    return sent
