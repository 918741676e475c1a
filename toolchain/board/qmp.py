"""Talks with a running QEMU (QMP) and with the agent in its guest: one JSON value a line.

The agent runs as root of the board, and answers while the board's network is down.
Sources: QEMU, docs/interop/qmp-spec and qemu-ga-ref.
"""

import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from toolchain.board.kind import VIRTUAL_PREFIX
from toolchain.errors import BoardError

MONITOR, AGENT = "monitor.sock", "agent.sock"
_SAVE_S, _AGENT_S, _LOOK_S = 120.0, 60.0, 0.5
_CONNECT_S = 10
"""Seconds to wait behind others who talk with the same QEMU (socket(7), SO_SNDTIMEO)."""


class Wire:
    """One conversation: commands and their results.

    `look` is called while we wait; an error that it raises ends the wait.
    """

    def __init__(
        self,
        name: str,
        sock: socket.socket,
        timeout_s: float,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._socket, self._timeout_s, self._look = name, sock, timeout_s, look
        self._heard = bytearray()
        sock.settimeout(_LOOK_S)

    def call(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command and return its result; raise BoardError with what went wrong."""
        self.send(command, arguments or {})
        while True:
            answer = self.read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise BoardError(f"{self._name}: {command}: {answer['error']['desc']}")

    def send(self, command: str, arguments: dict[str, Any]) -> None:
        """Send a command without waiting for an answer."""
        try:
            self._socket.sendall(
                json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
            )
        except OSError as error:
            raise BoardError(f"{self._name}: QEMU has ended") from error

    def read(self) -> dict[str, Any]:
        """Return the next message; raise BoardError at the end, or if none comes in time."""
        deadline = time.monotonic() + self._timeout_s
        while b"\n" not in self._heard:
            if time.monotonic() > deadline:
                raise BoardError(f"{self._name}: no answer in {self._timeout_s:g} s")
            self._receive()

        line, _, self._heard = self._heard.partition(b"\n")
        value: dict[str, Any] = json.loads(line.lstrip(b"\xff"))
        return value

    def _receive(self) -> None:
        try:
            chunk = self._socket.recv(64 << 10)
        except TimeoutError:
            self._look()
            return
        except OSError:
            chunk = b""

        if not chunk:
            raise BoardError(f"{self._name}: QEMU has ended")

        self._heard += chunk


@contextlib.contextmanager
def monitor(name: str, folder: Path) -> Iterator[Wire]:
    """Yield a conversation with QEMU; raise BoardError if none runs in that folder."""
    with _connected(name, folder / MONITOR) as sock:
        wire = Wire(name, sock, _SAVE_S)
        wire.read()
        wire.call("qmp_capabilities")
        yield wire


@contextlib.contextmanager
def agent(
    name: str, folder: Path, timeout_s: float = _AGENT_S, look: Callable[[], None] = lambda: None
) -> Iterator[Wire]:
    """Yield a conversation with the guest's agent; raise BoardError if it does not answer in time.

    The caller must stay until the answer is there: the agent of QEMU 7.2 loops for ever on an
    answer that nobody reads.
    """
    with _connected(name, folder / AGENT) as sock:
        wire = Wire(name, sock, timeout_s, look)
        token = int.from_bytes(os.urandom(4), "big")
        wire.send("guest-sync-delimited", {"id": token})
        while wire.read().get("return") != token:
            pass
        yield wire


def run(name: str, folder: Path, argv: Sequence[str], *, timeout_s: float = 60.0) -> str:
    """Run a command as root of the board and return its output; raise BoardError if it fails."""
    with agent(name, folder) as wire:
        return execute(wire, name, argv, timeout_s=timeout_s)


def execute(wire: Wire, name: str, argv: Sequence[str], *, timeout_s: float = 60.0) -> str:
    """Run a command through the agent and return its output."""
    deadline = time.monotonic() + timeout_s
    started = wire.call(
        "guest-exec", {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    )
    while not (state := wire.call("guest-exec-status", {"pid": started["pid"]}))["exited"]:
        if time.monotonic() > deadline:
            raise BoardError(f"{name}: {argv[0]}: no end after {timeout_s:g} s")
        time.sleep(0.1)

    if state.get("exitcode") != 0:
        said = base64.b64decode(state.get("err-data", "")).decode(errors="replace").strip()
        raise BoardError(f"{name}: {argv[0]}: {said or 'it failed'}")
    return base64.b64decode(state.get("out-data", "")).decode(errors="replace")


def process(folder: Path) -> int | None:
    """Return the process id of the QEMU that serves a folder's monitor; None if there is none.

    The kernel gives the id of the socket's peer.
    """
    with contextlib.suppress(BoardError), _connected("", folder / MONITOR) as sock:
        pid, _, _ = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        )
        return int(pid)
    return None


@contextlib.contextmanager
def _connected(name: str, path: Path) -> Iterator[socket.socket]:
    """Connect through a descriptor of the folder: a socket's path has at most 107 bytes."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        try:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, folder)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _CONNECT_S, 0))
            sock.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError as error:
            raise BoardError(
                f"{name}: the board is not up",
                hint=f"demitasse board up {name.removeprefix(VIRTUAL_PREFIX)}",
            ) from error
        yield sock
