"""Boards over SSH (paramiko 5): connect, run, talk. Host keys are always verified and passwords never asked for.

A key that nobody pinned is refused here; `pin` is the only way to trust one, and it refuses a changed key.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko

from toolchain.board import known_hosts
from toolchain.board.connection import Finished
from toolchain.board.route import Route, route
from toolchain.board.shell import command_line
from toolchain.errors import BoardError, TrustError

DEFAULT_ROOT = "~/.local/share/demitasse"
SSH_PORT = 22
CONNECT_S = 10.0
LOGIN_S = 30.0
KEEPALIVE_S = 5
LOST_AFTER_MS = 30_000
"""A link that acknowledges nothing for so long is lost (TCP_USER_TIMEOUT, tcp(7))."""
SEND_BYTES = (32 << 10) - 64
"""What paramiko fits into one of OpenSSH's packets: 64 bytes more would go as a second one, a long rest is copied each time."""
STALLED_S = 120.0
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_WEAK = ("cbc", "3des", "md5", "sha1")
GO_ON = "run the same command again: it goes on where it stopped"


def connect(address: str, *, accept_new: bool = False) -> "SshConnection":
    """Open a connection to `user@host[:port]` or an alias of ~/.ssh/config.

    Raise TrustError for a host key that is unknown (`accept_new` pins it instead) or changed, BoardError for the rest.
    """
    way = route(address)
    if accept_new and not known_hosts.read(way.known_hosts).knows(way.known_as):
        pin(address, fetch_host_key(address))
    return dial(way)


def fetch_host_key(address: str) -> paramiko.PKey:
    """Ask a board for its host key, without logging in."""
    way = route(address)
    jump = dial(way.jump) if way.jump else None
    try:
        with _explained(way), contextlib.closing(_transport(_socket(way, jump))) as transport:
            transport.start_client(timeout=LOGIN_S)
            return transport.get_remote_server_key()
    finally:
        if jump:
            jump.close()


def is_pinned(address: str, key: paramiko.PKey) -> bool:
    """Say whether a board's key is trusted already."""
    way = route(address)
    return known_hosts.read(way.known_hosts).trusts(way.known_as, key)


def pin(address: str, key: paramiko.PKey) -> None:
    """Trust a host key from now on; raise TrustError if another one is known for that name."""
    way = route(address)
    known = known_hosts.read(way.known_hosts)
    if known.trusts(way.known_as, key):
        return
    if known.knows(way.known_as):
        raise _changed(way, key)
    known_hosts.pin(way.known_hosts[0], way.known_as, key)


def dial(way: Route) -> "SshConnection":
    """Open a connection along a route."""
    known = known_hosts.read(way.known_hosts)
    jump = dial(way.jump) if way.jump else None
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_Refuse(way))
    asked_for = way.host if way.port == SSH_PORT else f"[{way.host}]:{way.port}"
    for kind, key in (known.keys.lookup(way.known_as) or {}).items():
        if key.asbytes() not in known.revoked:
            client.get_host_keys().add(asked_for, kind, key)
    try:
        with _explained(way):
            _log_in(client, way, jump)
    except BaseException:
        SshConnection(way.address, client, jump).close()
        raise
    return SshConnection(way.address, client, jump)


class SshConnection:
    """An open, authenticated connection (`connection.Connection`), and the one it goes through if there is one."""

    def __init__(
        self, address: str, client: paramiko.SSHClient, jump: "SshConnection | None" = None
    ) -> None:
        self._address, self._client, self._jump = address, client, jump

    @property
    def address(self) -> str:
        """How the user names the board."""
        return self._address

    @property
    def root(self) -> str:
        """Folder of the store on the board."""
        return os.environ.get("DEMITASSE_ROOT", DEFAULT_ROOT)

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Finished:
        """Run a command to its end."""
        channel = self._start(argv, timeout_s)
        feeder = threading.Thread(target=channel.feed, args=(stdin,), daemon=True)
        feeder.start()
        try:
            return channel.finish()
        finally:
            channel.close()
            feeder.join()

    def open(self, argv: Sequence[str]) -> "SshChannel":
        """Start a command and talk to it."""
        return self._start(argv, None)

    def close(self) -> None:
        """Hang up."""
        self._client.close()
        if self._jump:
            self._jump.close()

    def forward(self, host: str, port: int) -> paramiko.Channel:
        """Return a connection from the board on to another host."""
        transport = self._client.get_transport()
        assert transport is not None
        try:
            return transport.open_channel(
                "direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=CONNECT_S
            )
        except paramiko.SSHException as error:
            raise BoardError(
                f"{self._address}: does not lead to {host} port {port}: {_reason(error)}"
            ) from error

    def _start(self, argv: Sequence[str], timeout_s: float | None) -> "SshChannel":
        transport = self._client.get_transport()
        try:
            if transport is None:
                raise paramiko.SSHException("not connected")
            channel = transport.open_session(timeout=STALLED_S)
            channel.exec_command(command_line(argv))
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise BoardError(f"{self._address}: connection lost", hint=GO_ON) from error
        return SshChannel(self._address, channel, timeout_s)


class SshChannel:
    """A command that is running on the board (`connection.Channel`); with a time limit where it is run to its end."""

    def __init__(self, address: str, channel: paramiko.Channel, timeout_s: float | None) -> None:
        self._address, self._channel, self._limit_s = address, channel, timeout_s
        self._deadline = time.monotonic() + timeout_s if timeout_s else None
        self._sent = 0
        self._buffer = bytearray()
        self._complaints = bytearray()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def send(self, chunk: bytes | memoryview) -> None:
        """Write to the command's standard input."""
        view = memoryview(chunk)
        with self._watched(STALLED_S):
            for start in range(0, len(view), SEND_BYTES):
                piece = bytes(view[start : start + SEND_BYTES])
                self._channel.sendall(piece)
                self._sent += len(piece)

    def feed(self, content: bytes) -> None:
        """Write all of the input and end it; a command may end without having read it, and says so by its exit status."""
        with contextlib.suppress(BoardError):
            self.send(content)
            self.close_input()

    def close_input(self) -> None:
        """Send end of file."""
        with self._watched(STALLED_S):
            self._channel.shutdown_write()

    def read_line(self) -> bytes:
        """Return the next line with its newline, b"" at the end."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if not self._receive():
                return self._take(len(self._buffer))
        return self._take(end + 1)

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer at the end."""
        while len(self._buffer) < size and self._receive():
            pass
        return self._take(size)

    def finish(self) -> Finished:
        """Wait for the end and return what was not read before."""
        while self._receive():
            pass
        with self._watched(None):
            while not self._channel.status_event.wait(0.2):
                if self._deadline and time.monotonic() > self._deadline:
                    raise TimeoutError
        self._listener.join(timeout=STALLED_S)
        if self._channel.exit_status < 0:
            raise self._lost()
        stderr = self._complaints.decode(errors="replace")
        return Finished(
            code=self._channel.exit_status, stdout=self._take(len(self._buffer)), stderr=stderr
        )

    def close(self) -> None:
        """Stop caring."""
        self._channel.close()

    def _receive(self) -> bool:
        with self._watched(None):
            chunk = self._channel.recv(64 << 10)
        self._buffer += chunk
        if not chunk and self._channel.closed and self._channel.exit_status < 0:
            raise self._lost()
        return bool(chunk)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _listen(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while chunk := self._channel.recv_stderr(32 << 10):
                self._complaints += chunk

    @contextlib.contextmanager
    def _watched(self, stalled_s: float | None) -> Iterator[None]:
        left = max(self._deadline - time.monotonic(), 0.01) if self._deadline else stalled_s
        self._channel.settimeout(left)
        try:
            yield
        except TimeoutError as error:
            if self._deadline:
                raise BoardError(f"{self._address}: no end after {self._limit_s:g} s") from error
            raise self._lost() from error
        except (EOFError, OSError, paramiko.SSHException) as error:
            raise self._lost() from error

    def _lost(self) -> BoardError:
        return BoardError(f"{self._address}: connection lost at byte {self._sent:,}", hint=GO_ON)


class _Refuse(paramiko.RejectPolicy):
    """Turns the refusal of an unknown key into a sentence with its fingerprint."""

    def __init__(self, way: Route) -> None:
        self._way = way

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Raise TrustError."""
        known = known_hosts.read(self._way.known_hosts)
        if key.asbytes() in known.revoked:
            raise TrustError(f"{self._way.address}: the host key {_fingerprint(key)} is revoked")
        if known.knows(self._way.known_as):
            raise _changed(self._way, key)
        raise TrustError(
            f"{self._way.address}: unknown host key {_fingerprint(key)}",
            hint="compare it on the board (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), "
            f"then: demitasse trust {self._way.address}",
        )


def _log_in(client: paramiko.SSHClient, way: Route, jump: SshConnection | None) -> None:
    client.connect(
        way.host,
        port=way.port,
        username=way.user,
        sock=_socket(way, jump),
        transport_factory=_transport,
        key_filename=[file for file in way.identities if Path(file).is_file()] or None,
        allow_agent=not way.only_identities,
        look_for_keys=not way.only_identities,
        timeout=CONNECT_S,
        banner_timeout=LOGIN_S,
        auth_timeout=LOGIN_S,
    )
    transport = client.get_transport()
    assert transport is not None
    transport.set_keepalive(KEEPALIVE_S)


def _socket(
    way: Route, jump: SshConnection | None
) -> "socket.socket | paramiko.Channel | paramiko.ProxyCommand":
    if jump:
        return jump.forward(way.host, way.port)
    if way.proxy_command:
        return paramiko.ProxyCommand(way.proxy_command)
    sock = socket.create_connection((way.host, way.port), timeout=CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_AFTER_MS)
    return sock


def _transport(
    sock: socket.socket, disabled_algorithms: dict[str, list[str]] | None = None
) -> paramiko.Transport:
    transport = paramiko.Transport(sock, disabled_algorithms=disabled_algorithms)
    offered = transport.get_security_options()
    offered.ciphers = (
        *_FIRST_CIPHERS,
        *(name for name in _strong(offered.ciphers) if name not in _FIRST_CIPHERS),
    )
    offered.digests = _strong(offered.digests)
    offered.kex = _strong(offered.kex)
    return transport


def _strong(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not any(weak in name for weak in _WEAK))


def _fingerprint(key: paramiko.PKey) -> str:
    return f"{key.fingerprint} ({key.get_name()})"


def _changed(way: Route, key: paramiko.PKey) -> TrustError:
    return TrustError(
        f"{way.address}: the host key changed: it is now {_fingerprint(key)}",
        hint=f"somebody may be in between; if the board was set up anew: ssh-keygen -R '{way.known_as}', then: "
        f"demitasse trust {way.address}",
    )


def _refused(way: Route) -> BoardError:
    return BoardError(
        f"{way.address}: the board refused every key of `{way.user}`",
        hint=f"ssh-copy-id -p {way.port} {way.user}@{way.host}",
    )


@contextlib.contextmanager
def _explained(way: Route) -> Iterator[None]:
    try:
        yield
    except paramiko.BadHostKeyException as error:
        raise _changed(way, error.key) from error
    except paramiko.PasswordRequiredException as error:
        raise BoardError(
            f"{way.address}: the private key is locked with a passphrase",
            hint="ssh-add, then again",
        ) from error
    except paramiko.AuthenticationException as error:
        raise _refused(way) from error
    except socket.gaierror as error:
        raise BoardError(
            f"{way.address}: name not found",
            hint="is the board on this network? try its IP address",
        ) from error
    except TimeoutError as error:
        hint = "is the board on, and on this network?"
        raise BoardError(f"{way.address}: no answer in {CONNECT_S:.0f} s", hint=hint) from error
    except ConnectionRefusedError as error:
        hint = "is SSH enabled? on Raspberry Pi OS: sudo raspi-config nonint do_ssh 0"
        raise BoardError(f"{way.address}: nothing listens on port {way.port}", hint=hint) from error
    except (EOFError, OSError) as error:
        raise BoardError(f"{way.address}: not reachable: {_reason(error)}") from error
    except paramiko.SSHException as error:
        if str(error) == "No authentication methods available":
            raise _refused(way) from error
        raise BoardError(f"{way.address}: not a usable SSH server: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", "") or str(error) or "the connection was closed"
    return text[:1].lower() + text[1:]
