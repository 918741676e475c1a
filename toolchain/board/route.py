"""How to get to a board: an address and what ~/.ssh/config says of it.

An address is `user@host[:port]` or an alias; HostName, User, Port, IdentityFile, IdentitiesOnly, ProxyJump, ProxyCommand,
HostKeyAlias and UserKnownHostsFile are honoured.
"""

import getpass
import re
from dataclasses import dataclass
from pathlib import Path

import paramiko

from toolchain.board.known_hosts import host_name
from toolchain.errors import ConfigError

KINDS = "a board is `user@host[:port]`, an alias of ~/.ssh/config, `local`, or `virtual:<target>`"
_ADDRESS = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@:\s\[\]]+)(?::(?P<port>\d{1,5}))?"
)
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Everything that is needed to reach one SSH server."""

    address: str
    """As the user wrote it."""
    host: str
    port: int
    user: str
    known_as: str
    """Its name in known_hosts."""
    known_hosts: tuple[Path, ...]
    """The first one takes new keys."""
    identities: tuple[str, ...] = ()
    """Private keys to try."""
    only_identities: bool = False
    """Try neither the agent nor the user's usual keys."""
    jump: "Route | None" = None
    proxy_command: str = ""


def route(address: str, config_file: Path | None = None) -> Route:
    """Return the way to an address; raise ConfigError if it is none."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        kind = re.match(r"([a-z]+):", address)
        problem = f"unknown kind of address `{kind[1]}`" if kind else "not an address of a board"
        raise ConfigError(f"{address}: {problem}", hint=KINDS)
    said = _config(config_file or Path.home() / ".ssh" / "config").lookup(found["host"].strip("[]"))
    port = int(found["port"] or said.get("port", 22))
    host = said["hostname"]
    return Route(
        address=address,
        host=host,
        port=port,
        user=found["user"] or said.get("user") or getpass.getuser(),
        known_as=said["hostkeyalias"].lower() if "hostkeyalias" in said else host_name(host, port),
        known_hosts=(*_known_hosts(said), _SYSTEM_KNOWN_HOSTS),
        identities=tuple(str(Path(file).expanduser()) for file in said.get("identityfile", [])),
        only_identities=said.get("identitiesonly", "no").lower() == "yes",
        jump=_jump(said.get("proxyjump", "none"), config_file),
        proxy_command=said.get("proxycommand") or "",
    )


def _config(file: Path) -> paramiko.SSHConfig:
    if not file.is_file():
        return paramiko.SSHConfig()
    try:
        return paramiko.SSHConfig.from_path(str(file))
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error


def _known_hosts(said: paramiko.SSHConfigDict) -> list[Path]:
    return [
        Path(file).expanduser()
        for file in said.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    ]


def _jump(said: str, config_file: Path | None) -> Route | None:
    if said.lower() == "none":
        return None
    if "," in said:
        raise ConfigError(
            f"ProxyJump {said}: only one jump is followed",
            hint="give the first one a ProxyJump of its own",
        )
    return route(said, config_file)
