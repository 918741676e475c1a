"""Boards over SSH (paramiko 5): connect, run, talk.

Host keys are always verified and passwords never asked for. An unknown key is refused here; `pin`
is the only way to trust one, and it refuses a changed key.
"""

import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import paramiko

from toolchain.board import known_hosts
from toolchain.board.channel import GO_ON, STALLED_S, WIRE_ERRORS, SshChannel
from toolchain.board.connection import Finished
from toolchain.board.kind import Kind, kind_of
from toolchain.board.known_hosts_command import known
from toolchain.board.login import (
    CONNECT_S,
    ProxyProcess,
    changed,
    check_host_key,
    dial_socket,
    explained,
    greet,
    log_in,
)
from toolchain.board.route import Route, route
from toolchain.board.shell import command_line
from toolchain.errors import BoardError

DEFAULT_ROOT = "~/.local/share/demitasse"
KEEPALIVE_S = 5

# paramiko logs the tracebacks of its own threads; without a handler Python would print them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(address: str, *, accept_new: bool = False) -> "SshConnection":
    """Open a connection to `user@host[:port]` or an alias of ~/.ssh/config.

    Raises TrustError for a host key that is unknown (`accept_new` pins it instead) or changed,
    BoardError for the rest.
    """
    way = route(address)
    if accept_new and not known(way).knows(way.known_as):
        pin(address, fetch_host_key(address))
    return dial(way)


def fetch_host_key(address: str) -> paramiko.PKey:
    """Return a board's host key, without logging in."""
    way = route(address)
    line = _Line.to(way)
    try:
        return line.transport.get_remote_server_key()
    finally:
        line.close()


def is_pinned(address: str, key: paramiko.PKey) -> bool:
    """Return whether a board's key is trusted already."""
    way = route(address)
    return known(way, key).trusts(way.known_as, key)


def pin(address: str, key: paramiko.PKey) -> None:
    """Trust a host key from now on; raise TrustError if another key is known for that name."""
    way = route(address)
    trusted = known(way, key)
    if trusted.trusts(way.known_as, key):
        return
    if trusted.knows(way.known_as):
        raise changed(way, key)
    known_hosts.pin(way.known_hosts[0], way.known_as, key)


def dial(way: Route, environment: Mapping[str, str] | None = None) -> "SshConnection":
    """Open a connection along a route; its commands get the variables of `environment`."""
    line = _Line.to(way)
    try:
        with explained(way, line.proxy):
            key = line.transport.get_remote_server_key()
            check_host_key(way, known(way, key), key)
            log_in(way, line.transport)
            line.transport.set_keepalive(KEEPALIVE_S)
    except BaseException:
        line.close()
        raise

    return SshConnection(way.address, line, environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A server after the key exchange, and what leads to it: a jump host or a program."""

    transport: paramiko.Transport
    jump: "SshConnection | None"
    proxy: ProxyProcess | None

    @classmethod
    def to(cls, way: Route) -> "_Line":
        """Reach a server and exchange keys with it; its host key is not checked yet."""
        trusted = known(way)
        jump = dial(way.jump) if way.jump else None
        proxy = ProxyProcess(way.proxy_command) if way.proxy_command and not jump else None

        try:
            with explained(way, proxy):
                transport = greet(_wire(way, jump, proxy), trusted, way.known_as)
        except BaseException:
            for part in (proxy, jump):
                if part:
                    part.close()
            raise

        return cls(transport=transport, jump=jump, proxy=proxy)

    def close(self) -> None:
        """Hang up."""
        self.transport.close()
        for part in (self.proxy, self.jump):
            if part:
                part.close()


def _wire(
    way: Route, jump: "SshConnection | None", proxy: ProxyProcess | None
) -> "socket.socket | paramiko.Channel":
    """Return the wire to a server: through a jump host, through a program, or direct."""
    if jump:
        return jump.forward(way.host, way.port)
    return proxy.wire if proxy else dial_socket(way)


class SshConnection:
    """An open, authenticated connection (`connection.Connection`), and its jump host if any."""

    def __init__(
        self, address: str, line: _Line, environment: Mapping[str, str] | None = None
    ) -> None:
        self._address, self._line, self._environment = address, line, environment

    @property
    def address(self) -> str:
        """How the user names the board."""
        return self._address

    @property
    def kind(self) -> Kind:
        """What kind of board the address names."""
        return kind_of(self._address)

    @property
    def root(self) -> str:
        """Folder of the store on the board."""
        return os.environ.get("DEMITASSE_ROOT", DEFAULT_ROOT)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
        beat_s: float = 0.0,
    ) -> Finished:
        """Run a command to its end."""
        channel = self._start(argv, timeout_s)
        feeder = threading.Thread(target=channel.feed, args=(stdin, beat_s), daemon=True)
        feeder.start()
        try:
            return channel.finish()
        finally:
            channel.close()
            feeder.join()

    def open(self, argv: Sequence[str]) -> SshChannel:
        """Start a command and talk to it."""
        return self._start(argv, None)

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def forward(self, host: str, port: int) -> paramiko.Channel:
        """Return a wire from the board on to another host."""
        try:
            return self._line.transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=CONNECT_S
            )
        except WIRE_ERRORS as error:
            reason = str(error) or "no answer"
            raise BoardError(
                f"{self._address}: does not lead to {host} port {port}: "
                f"{reason[:1].lower()}{reason[1:]}"
            ) from error

    def _start(self, argv: Sequence[str], timeout_s: float | None) -> SshChannel:
        try:
            channel = self._line.transport.open_session(timeout=STALLED_S)
            channel.exec_command(command_line(argv, self._environment))
        except WIRE_ERRORS as error:
            raise BoardError(f"{self._address}: connection lost", hint=GO_ON) from error
        return SshChannel(self._address, channel, timeout_s)
