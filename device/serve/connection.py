"""One client's connection: its time limits, the limit on connections, half-closed clients.

The rule to keep: a client that sends nothing, or sends slowly, takes a place from nobody. A
connection without a whole request is closed after a while, and at once if another one needs its
place. A connection that is being answered is never closed so.
"""

import asyncio
import json
import resource
import select
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from device.errors import DeviceError
from device.serve.replies import error_body

MAX_CONNECTIONS = 512
"""Maximum number of connections."""
# About 15 KiB each in uvicorn and asyncio; half of the files that most systems let a process open
# (1024).
HEAD_TIMEOUT_S = 10.0
"""Seconds from the first byte of a request, or the beginning of a connection, to the end of the
headers."""
BODY_TIMEOUT_S = 35.0
"""Seconds from the headers to the end of the body; the routes answer 408 before."""
KEEP_ALIVE_S = 75.0
"""Seconds until an idle connection is closed."""
# Longer than clients keep an unused connection (httpx 5 s, aiohttp 15 s, Go and proxies 60 s). A
# server that closes first may do so while a request is on its way, and that request is lost.
_LIMITS_S = {"head": HEAD_TIMEOUT_S, "body": BODY_TIMEOUT_S, "idle": KEEP_ALIVE_S}
UNREAD_TIMEOUT_S = 60.0
"""Seconds that an answer waits for a client that does not read it."""
_SPARE_FILES = 64
"""Number of files that the model, the log and the libraries open."""
_FIRST_TICKS_S, _TICK_S = 0.05, 0.25
"""Seconds until a half-closed client is probed: most answers of small models are whole by then."""
_STATUS_LINE = b"HTTP/1.1 "
_CALL, _ENDED = "device.on_end", "device.ended"
_TCP_CLOSED = 7
"""TCP_CLOSE (Linux, include/net/tcp_states.h): the other side has reset the connection."""


def most_connections() -> int:
    """Return the number of connections that this process has file descriptors for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files < 0 else max(8, min(MAX_CONNECTIONS, files - _SPARE_FILES))


def on_end(scope: Any, call: Callable[[], None]) -> None:
    """Call `call` when the client of a request has sent its last byte.

    At once if it already has.
    """
    scope["state"][_CALL] = call
    if scope["state"].get(_ENDED):
        call()


def ended(scope: Any) -> None:
    """Note that the client of a request will send no more."""
    scope["state"][_ENDED] = True
    scope["state"].get(_CALL, lambda: None)()


class Connection(H11Protocol):
    """uvicorn's connection with bounds.

    `_phase` says what is waited for: `head`, `body`, `answer`, or `idle` between two requests.
    """

    _phase = ""
    _since = 0.0
    """Time at which the phase began."""
    _deadline: "asyncio.TimerHandle | None" = None
    _unread: "asyncio.TimerHandle | None" = None
    _probe: "_Probe | None" = None

    def connection_made(self, transport: Any) -> None:
        """Take a connection into the limit and wait for its first request."""
        super().connection_made(transport)
        self._enter("head")
        if len(self.connections) > most_connections():
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Read bytes; the first ones after an answer begin the next request."""
        if self._phase == "idle":
            self._enter("head")
        super().data_received(data)
        self._look()

    def eof_received(self) -> "bool | None":  # type: ignore[override]
        """Keep a half-closed connection open if its request is whole (shutdown(2)).

        Close all others.
        """
        if self._phase != "answer":
            return None

        if self._probe is None:
            self._probe = _Probe(self)

        ended(self.cycle.scope)
        return True

    def connection_lost(self, exc: "Exception | None") -> None:
        """Stop all timers."""
        self._enter("")
        self._stop_unread()
        if self._probe:
            self._probe.stop()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the unread rest of this one."""
        super().on_response_complete()
        if self._probe:
            self._go_on_half_closed(self._probe)
        self._look()

    def pause_writing(self) -> None:
        """Limit how long a client may not read its answer."""
        super().pause_writing()
        self._stop_unread()
        self._unread = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self._stop_unread()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with an error in OpenAI's shape."""
        text = "this is not HTTP, or its headers are too large"
        body = json.dumps(error_body(DeviceError("bad_request", text, status=400))).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _go_on_half_closed(self, probe: "_Probe") -> None:
        """Answer the next of several pipelined requests.

        Close the connection after the last one.
        """
        probe.stop()
        if self.cycle.response_complete:
            self.transport.close()
        else:
            self._probe = _Probe(self)
            ended(self.cycle.scope)

    # Phases

    def _look(self) -> None:
        """Set the phase that the connection is in."""
        if self.transport.is_closing():
            return
        if self.conn.their_state.__name__ == "SEND_BODY":
            self._enter("body")
        elif self.cycle and not self.cycle.response_complete:
            self._enter("answer")
        else:
            begun = self.cycle is None or self.conn.trailing_data[0]
            self._enter("head" if begun else "idle")

    def _enter(self, phase: str) -> None:
        """Begin a phase, if it is a new one, and its timer."""
        if phase == self._phase:
            return

        if self._deadline:
            self._deadline.cancel()

        limit_s = _LIMITS_S.get(phase)
        self._deadline = self.loop.call_later(limit_s, self._give_up) if limit_s else None
        self._phase, self._since = phase, self.loop.time()

    def _give_up(self) -> None:
        """Close a connection whose request does not arrive.

        An idle one is closed only if no byte has arrived since.
        """
        if self._phase != "idle" or not self._is_readable():
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has waited longest without a whole request.

        This one if all others are being answered.
        """
        others = [other for other in self.connections if isinstance(other, Connection)]
        waiting = [each for each in others if each is not self and each._phase != "answer"]
        longest = min(waiting, key=lambda each: each._since, default=self)
        longest.connections.discard(longest)
        longest.transport.abort()

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _stop_unread(self) -> None:
        if self._unread:
            self._unread.cancel()
            self._unread = None


class _Probe:
    """Probe of a half-closed client: does it still read?

    TCP shows the difference only after a write.

    The probe sends the beginning of the answer's status line, one character at a time and ever more
    rarely. A client that is gone answers with a reset. A client that waits gets its answer whole:
    characters that were sent are not sent again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport = connection.transport
        self._socket = connection.transport.get_extra_info("socket")
        self._cycle = connection.cycle
        self._cycle.transport = self  # type: ignore[assignment]
        self._letters = 0
        self._ticks = 0
        self._timer = connection.loop.call_later(_FIRST_TICKS_S, self._tick)

    def write(self, data: bytes) -> None:
        """Write an answer, without the characters that were sent already."""
        self._transport.write(data[self._letters :])
        self._letters = 0

    def close(self) -> None:
        """Close the connection after everything is written."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Say whether the connection is closing."""
        return self._transport.is_closing()

    def stop(self) -> None:
        """Stop probing."""
        self._timer.cancel()

    def _tick(self) -> None:
        state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _TCP_CLOSED:
            return self._transport.abort()

        self._ticks += 1
        # The 1st, 2nd, 4th, … tick: 9 characters last for a minute. After that a client that left
        # costs the rest of its answer.
        rare = self._ticks & (self._ticks - 1) == 0
        if rare and self._letters < len(_STATUS_LINE) and not self._cycle.response_started:
            self._transport.write(_STATUS_LINE[self._letters : self._letters + 1])
            self._letters += 1

        wait_s = _FIRST_TICKS_S if self._ticks < 2 else _TICK_S
        self._timer = self._connection.loop.call_later(wait_s, self._tick)
