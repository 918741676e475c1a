"""Addresses of endpoints: `http://host:port`, with or without the path of the API."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from toolchain.errors import ConfigError

KEY = "DEMITASSE_API_KEY"
"""Environment variable with the bearer token of an endpoint."""
# A key of another name, such as OPENAI_API_KEY, was given for one server and not for any.
_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_HOST = re.compile(r"[a-z0-9._:%-]+")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_CALLS = ("/chat/completions", "/completions", "/models")
"""Calls of the API that people paste with the address."""
_HINT = "such as http://127.0.0.1:8080, or with a path https://host.example/openai/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An endpoint's address, in parts."""

    scheme: str
    host: str
    port: int
    path: str
    """Path of the API, without a slash at its end."""

    @property
    def text(self) -> str:
        """The address as it is shown, without the path that most servers have."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path.removesuffix('/v1')}"

    @property
    def is_here(self) -> bool:
        """Whether what is sent stays on this computer."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name: `127.0.0.1.somebody.example` is on another computer
            return self.host == "localhost"


def is_endpoint(text: str) -> bool:
    """Say whether an address means an endpoint and not a board."""
    return bool(_SCHEME.match(text.strip()))


def parse(text: str) -> Address:
    """Return the parts of an address; raise ConfigError for one that cannot be called."""
    parts = _split(text.strip())
    if parts.username is not None or parts.password is not None:
        # The address is not repeated: a key in it would be shown.
        raise ConfigError(
            f"{parts.scheme}://…@{parts.hostname}: a name or a key in the address",
            hint=f"a command line can be read by others; put the key into {KEY}",
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"{text}: an endpoint has no `?` and no `#`", hint=_HINT)
    return Address(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=parts.port or _PORTS[parts.scheme],
        path=_api_path(parts.path),
    )


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    # urlsplit itself drops tabs and line ends.
    printable = text.isprintable() and " " not in text
    if not printable or not _HOST.fullmatch(host) or port == 0 or not _PATH.fullmatch(parts.path):
        raise ConfigError(f"`{text}`: not an address of an endpoint", hint=_HINT)
    return parts


def _api_path(path: str) -> str:
    """Return the path of the API; `/v1` where none is written."""
    path = path.rstrip("/")
    for call in _CALLS:
        path = path.removesuffix(call)
    return path or "/v1"
