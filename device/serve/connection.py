"""One client's connection: how long a request may take to come, how many clients there may be, and what half-closed ones get.

The rule to keep: whoever says nothing, or says it slowly, takes a place from nobody. A connection without a whole request is
closed after a while, and at once where another one needs its place; one that is being answered never is.
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
"""About 15 KiB each in uvicorn and asyncio; half of the files that most systems let a process open (1024)."""
HEAD_TIMEOUT_S = 10.0
"""From the first byte of a request, or the beginning of a connection, to the end of the headers."""
BODY_TIMEOUT_S = 35.0
"""From the headers to the end of the body; the routes say 408 before."""
KEEP_ALIVE_S = 75.0
"""Longer than clients keep a connection that nobody uses (5 s httpx, 15 s aiohttp, 60 s Go's and proxies'): a server that closes
first does so while a request is on its way, and that request is lost."""
_LIMITS_S = {"head": HEAD_TIMEOUT_S, "body": BODY_TIMEOUT_S, "idle": KEEP_ALIVE_S}
UNREAD_TIMEOUT_S = 60.0
"""How long an answer waits for a client that does not read it."""
_SPARE_FILES = 64
"""Of the model, the log and the libraries."""
_FIRST_TICKS_S, _TICK_S = 0.05, 0.25
"""A half-closed client's first letter comes after most answers of small models are whole."""
_STATUS_LINE = b"HTTP/1.1 "
_CALL, _ENDED = "device.on_end", "device.ended"
_TCP_CLOSED = 7
"""TCP_CLOSE (Linux, include/net/tcp_states.h): the other side has answered that it is gone."""


def most_connections() -> int:
    """Return how many connections this process has the files for."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files < 0 else max(8, min(MAX_CONNECTIONS, files - _SPARE_FILES))


def on_end(scope: Any, call: Callable[[], None]) -> None:
    """Have `call` called when the client of a request has said all that it will say; at once, where it has already."""
    scope["state"][_CALL] = call
    if scope["state"].get(_ENDED):
        call()


def ended(scope: Any) -> None:
    """Note that the client of a request will say no more."""
    scope["state"][_ENDED] = True
    scope["state"].get(_CALL, lambda: None)()


class Connection(H11Protocol):
    """uvicorn's connection with bounds.

    `_phase` says what is waited for: `head`, `body`, `answer`, or `idle` between two requests.
    """

    _phase = ""
    _since = 0.0
    """When the phase began."""
    _deadline: "asyncio.TimerHandle | None" = None
    _unread: "asyncio.TimerHandle | None" = None
    _probe: "_Probe | None" = None

    def connection_made(self, transport: Any) -> None:
        """Make room for a connection and wait for its first head."""
        super().connection_made(transport)
        self._enter("head")
        if len(self.connections) > most_connections():
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Read on; what comes between two requests is the beginning of a head."""
        if self._phase == "idle":
            self._enter("head")
        super().data_received(data)
        self._look()

    def eof_received(self) -> "bool | None":  # type: ignore[override]
        """Keep the way back open for a client that has sent its whole request (shutdown(2)), and end all others."""
        if self._phase != "answer":
            return None
        if self._probe is None:
            self._probe = _Probe(self)
        ended(self.cycle.scope)
        return True

    def connection_lost(self, exc: "Exception | None") -> None:
        """Stop all clocks."""
        self._enter("")
        self._stop_unread()
        if self._probe:
            self._probe.stop()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of this one that nobody read."""
        super().on_response_complete()
        if self._probe:
            self._go_on_half_closed(self._probe)
        self._look()

    def pause_writing(self) -> None:
        """Bound how long a client may not read its answer."""
        super().pause_writing()
        self._stop_unread()
        self._unread = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        self._stop_unread()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP as everything else is refused, in OpenAI's shape."""
        text = "this is not HTTP, or its headers are too large"
        body = json.dumps(error_body(DeviceError("bad_request", text, status=400))).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _go_on_half_closed(self, probe: "_Probe") -> None:
        """Answer the next of the requests that came together, or end the connection after the last one."""
        probe.stop()
        if self.cycle.response_complete:
            self.transport.close()
        else:
            self._probe = _Probe(self)
            ended(self.cycle.scope)

    # Phases

    def _look(self) -> None:
        """Find the phase that a connection is in."""
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
        """Begin a phase, if it is another one, and its clock."""
        if phase == self._phase:
            return
        if self._deadline:
            self._deadline.cancel()
        limit_s = _LIMITS_S.get(phase)
        self._deadline = self.loop.call_later(limit_s, self._give_up) if limit_s else None
        self._phase, self._since = phase, self.loop.time()

    def _give_up(self) -> None:
        """Close a connection whose request does not come; an idle one only if none has come just now."""
        if self._phase != "idle" or not self._is_readable():
            self.transport.abort()

    def _make_room(self) -> None:
        """Close the connection that has waited longest without a whole request; this one, where all are being answered."""
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
    """Finds out whether a client that will send no more still reads: TCP shows the two alike until something is sent.

    What is sent is what the answer begins with in any case, a letter of its status line at a time and ever more rarely. A client
    that is gone answers with a reset; one that waits gets its answer whole: letters that are out are not sent again.
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
        """Write an answer, without the letters that are out already."""
        self._transport.write(data[self._letters :])
        self._letters = 0

    def close(self) -> None:
        """Close the connection when all is written."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Say whether the connection is at its end."""
        return self._transport.is_closing()

    def stop(self) -> None:
        """Ask no more."""
        self._timer.cancel()

    def _tick(self) -> None:
        state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _TCP_CLOSED:
            return self._transport.abort()
        self._ticks += 1
        # The 1st, 2nd, 4th, … tick: 9 letters last for a minute, after which a client that left costs the rest of its answer.
        rare = self._ticks & (self._ticks - 1) == 0
        if rare and self._letters < len(_STATUS_LINE) and not self._cycle.response_started:
            self._transport.write(_STATUS_LINE[self._letters : self._letters + 1])
            self._letters += 1
        wait_s = _FIRST_TICKS_S if self._ticks < 2 else _TICK_S
        self._timer = self._connection.loop.call_later(wait_s, self._tick)
