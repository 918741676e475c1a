"""Access to the service: allowed host names, allowed origins, and the token of a network service.

A page in a browser reaches loopback too (DNS rebinding, CVE-2024-28224). So the Host header must be
an address, this machine's own name, or a name that its owner has allowed. Standard library only.
"""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from device.errors import DeviceError
from device.manifest.endpoint import PORT

HEALTH = ("/health", "/v1/health")
"""Paths that are answered whatever the Host header says."""
# Load balancers send any name, and HTTP/1.0 probes send none.
PUBLIC = ("/", *HEALTH)
"""Paths that need no token: the page and the health check."""
# The page holds nothing secret and asks its reader for the token.
MIN_TOKEN_CHARS = 16
MAX_NAMES = 32
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_][a-z0-9_-]{0,62})*\Z")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@*,]+\Z")


@dataclass(frozen=True)
class Access:
    """What a request must bring to be answered."""

    names: frozenset[str]
    """Host names of this machine; its addresses are always allowed."""
    token: str = ""
    """Bearer token; empty if the service asks for none."""
    origins: frozenset[str] = frozenset()
    """Origins whose pages may call the service besides its own page."""

    def refusal(
        self, path: str, headers: Mapping[str, str], *, preflight: bool = False
    ) -> "DeviceError | None":
        """Return why a request is refused; None if it is allowed. Header names are in lower case.

        A `preflight` is a browser's question whether a page may call. Browsers send no token with
        it.
        """
        host = headers.get("host", "")
        origin = headers.get("origin", "")
        if path not in HEALTH and not self._is_here(host):
            return DeviceError(
                "host_not_allowed",
                "the Host of the request is not this machine",
                hint="`--host-name NAME` allows another name",
                status=403,
            )

        own_page = origin.partition("://")[2].lower() == host.lower()
        if origin and not own_page and not self.allowed_origin(headers):
            return DeviceError(
                "origin_not_allowed",
                "pages of other origins may not call this service",
                hint="`--cors-origin ORIGIN` allows one",
                status=403,
            )
        if (
            self.token
            and path not in PUBLIC
            and not (preflight and origin)
            and not self._knows_token(headers.get("authorization", ""))
        ):
            return DeviceError(
                "unauthorized",
                "a bearer token is needed",
                hint="send `Authorization: Bearer TOKEN`",
                status=401,
            )

        return None

    def allowed_origin(self, headers: Mapping[str, str]) -> str:
        """Return the origin of a page from elsewhere that may call this service.

        Empty if there is none.
        """
        origin = headers.get("origin", "")
        return origin if origin.lower() in self.origins else ""

    def _is_here(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.lower()
        known = name in self.names or name.removesuffix(".") in self.names
        return known or _address(name.strip("[]")) is not None

    def _knows_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(), self.token.encode()
        )


def access_for(
    host: str, token_file: str, host_names: Iterable[str] = (), cors_origins: Iterable[str] = ()
) -> Access:
    """Return the rules of a service on `host`; raise DeviceError if it would be open to a network.

    `host_names` are its names besides this machine's own. `cors_origins` are the origins whose
    pages may call it.
    """
    token = _read_token(token_file) if token_file else ""
    address = _address(host)
    loopback = host == "localhost" or (address is not None and address.is_loopback)
    if not loopback and not token:
        tunnel = f"ssh -L {PORT}:localhost:{PORT}"
        hint = f"give `--token-file FILE`, or keep 127.0.0.1 and use a tunnel: {tunnel}"
        raise DeviceError(
            "token_required",
            f"`{host}` can be reached from the network and no token is asked for",
            hint=hint,
        )

    own = socket.gethostname().lower()
    names = {_host_name(name) for name in _few(host_names, "--host-name")}
    origins = {_origin(text) for text in _few(cors_origins, "--cors-origin")}

    return Access(frozenset({"localhost", own, f"{own}.local", *names}), token, frozenset(origins))


def _few(texts: Iterable[str], flag: str) -> list[str]:
    found = list(texts)
    if len(found) > MAX_NAMES:
        raise DeviceError("usage", f"`{flag}` is given {len(found)} times, at most {MAX_NAMES}")
    return found


def _host_name(text: str) -> str:
    """Return a name as a Host header has it: lower case, no root dot, non-ASCII letters in IDNA."""
    name = text.strip().lower().removesuffix(".")
    try:
        name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""

    if not _NAME.match(name):
        raise DeviceError(
            "bad_host_name",
            f"`{text[:80]}` is not the name of a host",
            hint="a name alone, such as kitchen-pi.local: no scheme, no port, no `*`",
        )

    return name


def _origin(text: str) -> str:
    """Return an origin as browsers send it: lower case, without a slash at its end."""
    origin = text.strip().lower().removesuffix("/")
    if not _ORIGIN.match(origin) or not origin.isascii():
        raise DeviceError(
            "bad_origin",
            f"`{text[:80]}` is not an origin",
            hint="scheme and host of one site, such as https://app.example:3000; "
            "`*` would be all of them",
        )

    return origin


def _read_token(path: str) -> str:
    try:
        token = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError("bad_token_file", f"`{path}` cannot be read") from error

    if (
        len(token) < MIN_TOKEN_CHARS
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        raise DeviceError(
            "bad_token_file",
            f"`{path}`: a token has at least {MIN_TOKEN_CHARS} printable ASCII characters",
        )

    return token


def _address(text: str) -> "ipaddress.IPv4Address | ipaddress.IPv6Address | None":
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
