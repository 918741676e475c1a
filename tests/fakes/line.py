"""A TCP line between two programs that breaks after so many bytes in one direction, as a pulled
plug does: with a reset, and for good.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

NOW = struct.pack("ii", 1, 0)
"""SO_LINGER: whoever closes throws away what is under way."""


class Line:
    """Leads to a port of this computer; `limits` are the bytes after which it breaks, there and
    back.
    """

    def __init__(self, to: int, limits: tuple[int | None, int | None]) -> None:
        self._to, self._limits = to, limits
        self.carried = [0, 0]
        self._ends: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._door.getsockname()[1])
        threading.Thread(target=self._admit, daemon=True).start()

    def _admit(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._door.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for way in ((near, far, 0), (far, near, 1)):
                    threading.Thread(target=self._carry, args=way, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, way: int) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(64 << 10):
                limit = self._limits[way]
                left = len(chunk) if limit is None else limit - self.carried[way]
                target.sendall(chunk[: max(0, left)])
                self.carried[way] += min(len(chunk), max(0, left))
                if left < len(chunk):
                    return self.cut()
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Break it, and admit nobody any more."""
        for end in (*self._ends, self._door):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NOW)
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def line(to: int, *, there: int | None = None, back: int | None = None) -> Iterator[Line]:
    """Yield a line that breaks after so many bytes there or back."""
    made = Line(to, (there, back))
    try:
        yield made
    finally:
        made.cut()
