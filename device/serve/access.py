"""Who may talk to the service: the Host it is called by, pages of other origins, and the token of a network service.

A page in a browser reaches loopback too (DNS rebinding, CVE-2024-28224), so the Host must be an address or this machine's own name.
Standard library only.
"""

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from device.errors import DeviceError

PUBLIC = ("/", "/health", "/v1/health")
"""What asks for no token: whether the service lives, and the page, which holds nothing and asks its reader for the token."""
MIN_TOKEN_CHARS = 16


@dataclass(frozen=True)
class Access:
    """What a request must bring."""

    names: frozenset[str]
    """Host names that are this machine; addresses always are."""
    token: str = ""
    """The bearer token; empty asks for none."""

    def refusal(self, path: str, headers: Mapping[str, str]) -> "DeviceError | None":
        """Return why a request is refused, None where it is welcome; header names in lower case."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if not self._is_here(host):
            return DeviceError(
                "host_not_allowed", "the Host of the request is not this machine", status=403
            )
        if origin and origin.partition("://")[2].lower() != host.lower():
            return DeviceError(
                "origin_not_allowed", "pages of other origins may not call this service", status=403
            )
        if (
            self.token
            and path not in PUBLIC
            and not self._knows_token(headers.get("authorization", ""))
        ):
            return DeviceError(
                "unauthorized",
                "a bearer token is needed",
                hint="send `Authorization: Bearer TOKEN`",
                status=401,
            )
        return None

    def _is_here(self, host: str) -> bool:
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name.lower() in self.names or _address(name.strip("[]")) is not None

    def _knows_token(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(
            token.strip().encode(), self.token.encode()
        )


def access_for(host: str, token_file: str) -> Access:
    """Return what requests to a service on `host` must bring; raise DeviceError where it would stand open to a network."""
    token = _read_token(token_file) if token_file else ""
    address = _address(host)
    loopback = host == "localhost" or (address is not None and address.is_loopback)
    if not loopback and not token:
        hint = "give `--token-file FILE`, or keep 127.0.0.1 and use a tunnel: ssh -L 8080:localhost:8080"
        raise DeviceError(
            "token_required",
            f"`{host}` can be reached from the network and no token is asked for",
            hint=hint,
        )
    own = socket.gethostname().lower()
    return Access(frozenset({"localhost", own, f"{own}.local"}), token)


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
