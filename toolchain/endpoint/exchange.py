"""One request to an endpoint and its response: bounded in time and bytes, no redirect, no proxy.

A server that sends a byte a minute, headers without end or a body without end takes no more than
the limits below. What it says is quoted, shortened, and never with the key in it.
"""

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.endpoint.address import KEY, Address
from toolchain.errors import BoardError, BusyError, ConfigError, ToolchainError, TrustError

CONNECT_S = 20.0
SILENT_S = 600.0
"""Seconds that a server may be silent: a long prompt on a slow board is read in minutes."""
WHOLE_S = 3600.0
"""Seconds that one answer may take."""
MOST_LINE = 1 << 20
"""Bytes of one event of a stream."""
MOST_STREAM = 64 << 20
"""Bytes of one answer."""
MOST_LINES = 1 << 20
"""Lines of one answer: reading eight million empty ones takes 20 s."""
MOST_FAULT = 64 << 10
"""Bytes of an error that are read."""
FAULT_S = 5.0
"""Seconds that they may take: what the status says is known without them."""
_QUOTED = 300
_LOST = (OSError, http.client.HTTPException, ValueError)
"""What http.client and ssl raise for a connection that was lost, or is no HTTP."""


class RefusedError(ConfigError):
    """A request that a server understood and does not take."""

    def __init__(self, status: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        """HTTP status of the refusal."""


def key() -> str:
    """Return the endpoint's key; raise ConfigError for one that no header can carry."""
    text = os.environ.get(KEY, "").strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"{KEY}: not a key: it has a space, a line end or a letter beyond ASCII")
    return text


@dataclass(slots=True)
class Exchange:
    """A response that is being read."""

    address: Address
    response: http.client.HTTPResponse
    connect_s: float
    """Seconds that the connection took, with its TLS."""
    sent_at: float
    """When the request was sent, by `time.perf_counter`."""
    open_socket: socket.socket

    @property
    def is_stream(self) -> bool:
        """Whether the server sends events, not one JSON document."""
        kind = self.response.headers.get("content-type", "")
        return kind.partition(";")[0].strip().lower() == "text/event-stream"

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of a response; raise BoardError for one that is too long."""
        size = count = 0
        while line := self._read(lambda: self.response.readline(MOST_LINE + 1)):
            size += len(line)
            count += 1
            if len(line) > MOST_LINE or size > MOST_STREAM or count > MOST_LINES:
                raise BoardError(f"{self.address.text}: an answer without end")
            yield line

    def whole(self, most: int = MOST_STREAM) -> bytes:
        """Return the body; raise BoardError for one of more than `most` bytes."""
        content = self._read(lambda: self.response.read(most + 1))
        if len(content) > most:
            raise BoardError(f"{self.address.text}: an answer without end")
        if self.response.length:  # http.client does not say that bytes are missing
            raise BoardError(f"{self.address.text}: it ended in the middle of its answer")
        return content

    def beginning(self, most: int) -> bytes:
        """Return the first bytes of the body, as many as have come; an error needs no more."""
        content = b""
        try:
            with _cut_after(FAULT_S, self.open_socket):
                while len(content) < most and (part := self.response.read1(most - len(content))):
                    content += part
        except _LOST:
            pass
        return content

    def _read(self, read: Any) -> bytes:
        try:
            content: bytes = read()
        except _LOST as error:
            raise _lost(self.address, error) from error
        return content


@contextlib.contextmanager
def exchange(
    address: Address, call: str, body: Mapping[str, Any] | None = None, *, whole_s: float = WHOLE_S
) -> Iterator[Exchange]:
    """Yield the response to a request; raise what a server that refuses it says.

    `call` is the end of the path, such as `/models`.
    """
    secret = key()
    began = time.perf_counter()
    with contextlib.ExitStack() as ends:
        connection = _connection(address)
        ends.callback(connection.close)
        _connect(address, connection)
        # A response that ends its connection takes the socket from `connection`.
        open_socket = connection.sock
        ends.enter_context(_cut_after(whole_s, open_socket))
        connected = time.perf_counter()

        response = _send(address, connection, call, body, secret)
        ends.callback(response.close)
        opened = Exchange(address, response, connected - began, connected, open_socket)
        if response.status != 200:
            raise _refused(opened, call, secret)
        yield opened


def _connection(address: Address) -> http.client.HTTPConnection:
    if address.scheme == "http":
        return http.client.HTTPConnection(address.host, address.port, timeout=CONNECT_S)
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(
        address.host, address.port, timeout=CONNECT_S, context=context
    )


def _connect(address: Address, connection: http.client.HTTPConnection) -> None:
    try:
        connection.connect()
        connection.sock.settimeout(SILENT_S)
    except ssl.SSLCertVerificationError as error:
        raise TrustError(
            f"{address.text}: its certificate is not trusted: {error.verify_message}",
            hint="SSL_CERT_FILE names a file with the authority that signed it",
        ) from error
    except ssl.SSLError as error:
        raise BoardError(
            f"{address.text}: no TLS answers there", hint="is it an http:// server?"
        ) from error
    except _LOST as error:
        raise _lost(address, error) from error


def _send(
    address: Address,
    connection: http.client.HTTPConnection,
    call: str,
    body: Mapping[str, Any] | None,
    secret: str,
) -> http.client.HTTPResponse:
    headers = {"accept": "text/event-stream, application/json"}
    content = None
    if body is not None:
        headers["content-type"] = "application/json"
        content = json.dumps(body).encode()
    if secret:
        headers["authorization"] = f"Bearer {secret}"

    try:
        connection.request("POST" if content else "GET", address.path + call, content, headers)
        return connection.getresponse()
    except _LOST as error:
        raise _lost(address, error) from error


@contextlib.contextmanager
def _cut_after(seconds: float, open_socket: socket.socket) -> Iterator[None]:
    """Cut a connection that is still open after so many seconds.

    A time limit of the socket begins again with each byte, so it ends no server that sends slowly.
    """

    def cut() -> None:
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _lost(address: Address, error: Exception) -> BoardError:
    if isinstance(error, ConnectionRefusedError):
        hint = "is the server running, and is this its port?"
        return BoardError(f"{address.text}: nothing answers there", hint=hint)
    if isinstance(error, TimeoutError):
        return BoardError(f"{address.text}: it does not answer in time")
    if isinstance(error, socket.gaierror):
        return BoardError(f"{address.text}: this host is not known")
    if isinstance(error, http.client.BadStatusLine) and not isinstance(
        error, http.client.RemoteDisconnected
    ):
        hint = "is it an https:// server?" if address.scheme == "http" else ""
        return BoardError(f"{address.text}: what answers there does not speak HTTP", hint=hint)
    reason = getattr(error, "strerror", None) or type(error).__name__
    return BoardError(f"{address.text}: the connection was lost: {reason}")


def _refused(opened: Exchange, call: str, secret: str) -> ToolchainError:
    """Return what a response other than 200 means for the reader."""
    status, address = opened.response.status, opened.address
    said = fault_of(opened.beginning(MOST_FAULT), secret)
    where = f"{address.text}: it answers {status}"
    if status in (401, 403):
        hint = f"its key is not the one in {KEY}" if secret else f"a key is read from {KEY}"
        return RefusedError(status, f"{where}{said}", hint=hint)
    if status == 404:
        hint = f"its API is looked for under `{address.path}`; another path is part of the address"
        return RefusedError(status, f"{where} to `{call}`{said}", hint=hint)
    if 300 <= status < 400:
        place = opened.response.headers.get("location", "")[:_QUOTED]
        hint = f"if you trust it, call `{place}` itself" if place else ""
        return BoardError(f"{where}: it sends elsewhere, which is not followed", hint=hint)
    if 400 <= status < 500 and status != 429:
        return RefusedError(status, f"{where}{said}")
    return BusyError(f"{where}{said}") if status == 503 else BoardError(f"{where}{said}")


def fault_of(content: bytes, secret: str = "") -> str:
    """Return what a server says is wrong, as the end of a sentence; empty if it says nothing.

    OpenAI has `{"error": {"message"}}`, Ollama `{"error": "…"}`, FastAPI `{"detail": …}`, vLLM
    `{"message"}`.
    """
    text = content.decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = "" if text.lstrip().startswith("<") else text
    for name in ("error", "message", "detail", "msg"):
        while isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, dict) and name in value:
            value = value[name]
    said = " ".join(value.split()) if isinstance(value, str) else ""
    if secret:
        said = said.replace(secret, "…")
    return f": {said[:_QUOTED].rstrip('.')}" if said else ""
