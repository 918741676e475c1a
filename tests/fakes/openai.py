"""A server with OpenAI's API on a free loopback port: real HTTP, as wrong as a test wants it."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = Callable[["Handler", dict[str, Any]], None]


@dataclass
class Server:
    """What the server has, and what it was asked."""

    port: int = 0
    scheme: str = "http"
    models: list[str] = field(default_factory=lambda: ["tiny"])
    fault: tuple[int, str] | None = None
    """Status and text of the answer to whoever asks for its models; None: it lists them."""
    reply: Reply = lambda handler, body: stream(handler, ["Hel", "lo"])
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Path, headers in lower case and body of each request."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Bodies of the conversations that were sent."""
        return [body for path, _, body in self.requests if path.endswith("/chat/completions")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: Server

    def log_message(self, *args: Any) -> None:
        """Write nothing."""

    def do_GET(self) -> None:
        self._note({})
        if self.path != "/v1/models":
            answer(self, 404, {"detail": "Not Found"})
            return
        if self.server_of.fault:
            status, text = self.server_of.fault
            answer(self, status, text, "text/plain")
            return
        rows = [{"id": name, "object": "model"} for name in self.server_of.models]
        answer(self, 200, {"object": "list", "data": rows})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._note(body)
        try:
            self.server_of.reply(self, body)
        except OSError:
            self.close_connection = True  # the client went away

    def _note(self, body: dict[str, Any]) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server_of.requests.append((self.path, headers, body))


def answer(handler: Handler, status: int, value: Any, kind: str = "application/json") -> None:
    """Send one whole answer; text as it is, other values as JSON."""
    content = (value if isinstance(value, str) else json.dumps(value)).encode()
    handler.send_response(status)
    handler.send_header("content-type", kind)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def begin(handler: Handler, kind: str = "text/event-stream; charset=utf-8") -> None:
    """Begin an answer that ends with the connection."""
    handler.send_response(200)
    handler.send_header("content-type", kind)
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.close_connection = True


def event(handler: Handler, value: Any) -> None:
    """Send one event; text as it is, other values as JSON."""
    said = value if isinstance(value, str) else json.dumps(value)
    handler.wfile.write(f"data: {said}\n\n".encode())
    handler.wfile.flush()


def piece(text: str, reason: str | None = None, name: str = "content") -> dict[str, Any]:
    """Return one event's value as OpenAI has it."""
    delta = {name: text} if text else {}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": None}


def stream(
    handler: Handler,
    pieces: list[str],
    usage: dict[str, Any] | None = None,
    *,
    pause_s: float = 0.0,
    first_s: float = 0.0,
) -> None:
    """Stream an answer as OpenAI does, with seconds before its first piece and between them."""
    begin(handler)
    threading.Event().wait(first_s)
    event(handler, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    for text in pieces:
        event(handler, piece(text))
        threading.Event().wait(pause_s)
    event(handler, piece("", "stop"))
    if usage:
        event(handler, {"choices": [], "usage": usage})
    event(handler, "[DONE]")


@contextmanager
def openai(
    reply: Reply | None = None,
    models: list[str] | None = None,
    certificate: Path | None = None,
) -> Iterator[Server]:
    """Yield a server; it ends with the block. With a certificate and its key it speaks TLS."""
    about = Server(scheme="https" if certificate else "http")
    if reply:
        about.reply = reply
    if models is not None:
        about.models = models
    handler = type("Bound", (Handler,), {"server_of": about})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        about.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield about
        finally:
            server.shutdown()
            thread.join()
