"""Logging in: the key exchange, the check of the host key, then the user's keys one by one.

The order is the rule: until the host key is known to be the board's own, nothing about the user is
sent, not even a name. Passwords are never asked for.
"""

import contextlib
import socket
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import paramiko
from paramiko.ssh_exception import IncompatiblePeer

from toolchain.board import revoked_keys
from toolchain.board.channel import WIRE_ERRORS
from toolchain.board.host_certificates import SUFFIX
from toolchain.board.identities import Keys
from toolchain.board.known_hosts import KnownHosts
from toolchain.board.route import Route
from toolchain.board.ssh_agent import SIGN_S
from toolchain.errors import BoardError, ToolchainError, TrustError, UnreachableError

CONNECT_S = 10.0
LOGIN_S = 30.0
LOST_AFTER_MS = 30_000
"""Milliseconds without acknowledgement after which a link is lost (TCP_USER_TIMEOUT, tcp(7))."""
MAX_GREETING_BYTES = 256 << 10
"""Limit of what a server sends until the keys are exchanged: its version, algorithms and key."""
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_WEAK = ("cbc", "3des", "md5", "sha1")


class Greeted:
    """A socket with a limit of bytes until the keys are exchanged; paramiko itself has none."""

    def __init__(self, wire: "socket.socket | paramiko.Channel") -> None:
        self._wire = wire
        self._left: int | None = MAX_GREETING_BYTES

    def recv(self, size: int) -> bytes:
        """Return bytes as they come; raise OSError for too many."""
        chunk: bytes = self._wire.recv(size)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise OSError("it talks without end")
        return chunk

    def exchanged(self) -> None:
        """Lift the limit: the keys are exchanged."""
        self._left = None

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the socket itself."""
        return getattr(self._wire, name)


class ProxyProcess:
    """A ProxyCommand: a local program whose input and output are the line to a server."""

    def __init__(self, command: str) -> None:
        self.wire, theirs = socket.socketpair()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with theirs:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._complaints,
                start_new_session=True,
            )

    def last_words(self) -> str:
        """Return how it ended and its last line; "" while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)

        if self._process.poll() is None:
            return ""

        self._complaints.seek(0)
        said = self._complaints.read(64 << 10).decode(errors="replace").strip().splitlines()
        how = f"exit status {self._process.returncode}"
        return f"{how}: {said[-1]}" if said else how

    def close(self) -> None:
        """End the program."""
        self.wire.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

        self._complaints.close()


def dial_socket(way: Route) -> socket.socket:
    """Return a socket that is connected to a server."""
    sock = socket.create_connection((way.host, way.port), timeout=CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_AFTER_MS)
    return sock


class _Transport(paramiko.Transport):
    """A connection that asks for the host key in a certificate, or never asks for one."""

    wants_certificate = False

    @property
    def preferred_keys(self) -> Sequence[str]:
        """Return the kinds of host keys in their order; paramiko has certificates at the end."""
        kinds = super().preferred_keys
        plain = [kind for kind in kinds if not kind.endswith(SUFFIX)]
        return [kind + SUFFIX for kind in plain] + plain if self.wants_certificate else plain


def greet(
    wire: "socket.socket | paramiko.Channel", known: KnownHosts, name: str
) -> paramiko.Transport:
    """Exchange keys with a server; the host key is not checked yet."""
    greeted = Greeted(wire)
    # `Greeted` has all that Transport uses of a socket.
    transport = _Transport(cast("socket.socket", greeted))
    transport.banner_timeout = transport.handshake_timeout = LOGIN_S
    offered = transport.get_security_options()
    offered.ciphers = (
        *_FIRST_CIPHERS,
        *(cipher for cipher in _strong(offered.ciphers) if cipher not in _FIRST_CIPHERS),
    )
    offered.digests = _strong(offered.digests)
    offered.kex = _strong(offered.kex)
    offered.key_types = _known_first(offered.key_types, known.kinds(name))
    transport.wants_certificate = bool(known.authorities(name))

    try:
        transport.start_client(timeout=LOGIN_S)
        if not transport.initial_kex_done:
            raise TimeoutError
    except BaseException:
        transport.close()
        raise

    greeted.exchanged()
    return transport


def check_host_key(way: Route, known: KnownHosts, key: paramiko.PKey) -> None:
    """Raise TrustError unless this very key, or its certificate's authority, is known."""
    if known.revokes(key):
        raise TrustError(f"{way.address}: the host key {fingerprint(key)} is revoked")
    if way.revoked and (problem := revoked_keys.problem(way.revoked, key)):
        raise TrustError(
            f"{way.address}: the host key {fingerprint(key)} is refused by {way.revoked}: "
            f"{problem}",
            hint="RevokedHostKeys of ~/.ssh/config names this list",
        )
    if known.trusts(way.known_as, key):
        return
    if known.knows(way.known_as):
        raise changed(way, key)
    if reason := known.distrust(way.known_as, key):
        raise TrustError(
            f"{way.address}: the certificate of the host key is refused: {reason}",
            hint="`ssh-keygen -L -f` shows a certificate; "
            "@cert-authority in known_hosts names who may sign it",
        )

    raise TrustError(
        f"{way.address}: unknown host key {fingerprint(key)}",
        hint="compare it on the board (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), "
        f"then: demitasse trust {way.address}",
    )


def log_in(way: Route, transport: paramiko.Transport) -> None:
    """Try the user's keys until one is accepted.

    Raises BoardError with what became of each key if none is.
    """
    transport.auth_timeout = LOGIN_S
    try:
        # OpenSSH asks this first: some servers accept the user at once, others list their methods.
        if not transport.auth_none(way.user):
            return
    except paramiko.BadAuthenticationType as error:
        if "publickey" not in error.allowed_types:
            raise _takes_no_keys(way, error.allowed_types) from error

    keys = Keys(way)
    refused = []
    transport.auth_timeout = SIGN_S

    for name, key in keys.candidates():
        try:
            further = transport.auth_publickey(way.user, key)
        except paramiko.AuthenticationException as error:
            refused.append(name)
            if not transport.is_active():
                raise _too_many(way, refused) from error
            continue
        if further:
            raise _takes_no_keys(way, further)
        return

    raise _no_key(way, refused, keys.problems)


def _takes_no_keys(way: Route, allowed: Sequence[str]) -> BoardError:
    return BoardError(
        f"{way.address}: the board asks for more than a key: "
        f"{', '.join(allowed) or 'nothing is allowed'}",
        hint="passwords are never asked for here: let the board take a key alone "
        "(PubkeyAuthentication in its sshd_config)",
    )


def _too_many(way: Route, refused: Sequence[str]) -> BoardError:
    return BoardError(
        f"{way.address}: the board hung up after {len(refused)} keys",
        hint="name its key in ~/.ssh/config: IdentityFile, with IdentitiesOnly yes",
    )


def _no_key(way: Route, refused: Sequence[str], problems: Sequence[str]) -> BoardError:
    """Return the error of a failed login: the refused keys and those that were not tried."""
    if not refused and not problems:
        looked = f": looked for {' and '.join(way.identities)}" if len(way.identities) < 4 else ""
        return BoardError(
            f"{way.address}: there is no key to log in with{looked}",
            hint=f"ssh-keygen -t ed25519, then: ssh-copy-id -p {way.port} {way.user}@{way.host}",
        )
    if not refused:
        return BoardError(f"{way.address}: no key can be tried: {'; '.join(problems)}")

    untried = f"; not tried: {'; '.join(problems)}" if problems else ""
    return BoardError(
        f"{way.address}: the board refused every key of `{way.user}`{untried}",
        hint=f"ssh-copy-id -p {way.port} {way.user}@{way.host}",
    )


def _known_first(kinds: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Return kinds of host keys with the known ones first; a server then shows a known one."""
    return tuple(
        sorted(kinds, key=lambda kind: ("ssh-rsa" if "rsa" in kind else kind) not in known)
    )


def _strong(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not any(weak in name for weak in _WEAK))


def fingerprint(key: paramiko.PKey) -> str:
    """Return a key's fingerprint as `ssh-keygen -l` shows it, and its kind."""
    return f"{key.fingerprint} ({key.get_name()})"


def changed(way: Route, key: paramiko.PKey) -> TrustError:
    """Return the error of a changed host key."""
    return TrustError(
        f"{way.address}: the host key changed: it is now {fingerprint(key)}",
        hint="somebody may be in between; if the board was set up anew: "
        f"ssh-keygen -R '{way.known_as}', then: "
        f"demitasse trust {way.address}",
    )


@contextlib.contextmanager
def explained(way: Route, proxy: ProxyProcess | None = None) -> Iterator[None]:
    """Raise errors of the network and of the server as BoardError, in a sentence of ours."""
    try:
        yield
    except ToolchainError:
        raise
    except WIRE_ERRORS as error:
        words = proxy.last_words() if proxy else ""
        if words:
            raise BoardError(
                f"{way.address}: its ProxyCommand ended with {words}",
                hint=f"`{way.proxy_command}` is what ~/.ssh/config runs",
            ) from error
        raise _sentence(way, error) from error


def _sentence(way: Route, error: Exception) -> BoardError:
    where = way.address
    match error:
        case socket.gaierror():
            return UnreachableError(
                f"{where}: name not found", hint="is the board on this network? try its IP address"
            )
        case TimeoutError():
            return UnreachableError(
                f"{where}: no answer in {CONNECT_S:.0f} s",
                hint="is the board on, and on this network?",
            )
        case ConnectionRefusedError():
            hint = "is SSH enabled? on Raspberry Pi OS: sudo raspi-config nonint do_ssh 0"
            return UnreachableError(f"{where}: nothing listens on port {way.port}", hint=hint)
        case IncompatiblePeer() if "no acceptable" in str(error):
            hint = "update the SSH server of the board: what it offers is not safe any more"
            return BoardError(f"{where}: no common algorithm: {_reason(error)}", hint=hint)
        case paramiko.SSHException():
            return BoardError(f"{where}: not a usable SSH server: {_reason(error)}")
        case EOFError() | OSError():
            return UnreachableError(f"{where}: not reachable: {_reason(error)}")

    return BoardError(f"{where}: not a usable SSH server: {type(error).__name__}: {_reason(error)}")


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", "") or str(error) or "the connection was closed"
    banner = "protocol banner"
    if banner in text and not text.endswith(banner):  # paramiko puts nothing before its cause
        text = text.replace(banner, f"{banner}: ")
    return text[:1].lower() + text[1:300]
