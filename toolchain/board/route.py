"""The route to a board: an address, and what OpenSSH's own client knows about it.

An address is `user@host[:port]`, an alias of ~/.ssh/config, or `ssh://user@host:port`. `ssh -G`
reads the configuration: Include, Match, comments, escapes and the rest mean here what they mean
there. Without a client an address is enough, as long as there is no configuration.
"""

import getpass
import hashlib
import ipaddress
import os
import pwd
import re
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

from toolchain.board.known_hosts import host_name
from toolchain.errors import ConfigError, ToolError
from toolchain.tools import openssh

KINDS = "a board is `user@host[:port]`, an alias of ~/.ssh/config, `local`, or `virtual:<target>`"
ENDPOINTS = "`ask`, `chat` and `bench` take endpoints too"
SSH_PORT = 22
MOST_JUMPS = 8
"""Limit of hosts on the way; more is a configuration that leads back to itself."""
_KEY_NAMES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_SYSTEM_KNOWN_HOSTS = (Path("/etc/ssh/ssh_known_hosts"), Path("/etc/ssh/ssh_known_hosts2"))
_HOST = re.compile(r"\[(?P<address>[0-9A-Fa-f:.%\w]+)\](?::(?P<port>\d{1,5}))?")
_NAME = re.compile(r"(?P<address>[^:\s\[\]]+)(?::(?P<port>\d{1,5}))?")

Settings = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address as the user wrote it, in parts."""

    host: str
    user: str = ""
    port: int = 0
    """0 if it was not written."""


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
    """Paths of the known_hosts files; the first one takes new keys."""
    known_hosts_command: tuple[str, ...] = ()
    """Program that prints further lines, and its arguments; the tokens of a key (`%H`, `%I`, `%K`,
    `%f`, `%t`) and `%%` are still in them."""
    revoked: Path | None = None
    """Path to a list of revoked keys (RevokedHostKeys)."""
    identities: tuple[str, ...] = ()
    """Paths of keys to try: private ones, or public ones whose private half the agent holds."""
    certificates: tuple[str, ...] = ()
    """Paths of certificates that do not lie beside their key."""
    agent: str = ""
    """Path to the agent's socket; empty for none."""
    only_identities: bool = False
    """Whether to leave out keys of the agent that are not among the identities."""
    jump: "Route | None" = None
    proxy_command: str = ""


def route(address: str, config_file: Path | None = None) -> Route:
    """Return the route to an address.

    Raises ConfigError for a bad address, or if OpenSSH refuses its configuration.
    """
    return _route(address, config_file, hops=0)


def parse(address: str) -> Address:
    """Return the parts of an address; raise ConfigError for a bad one."""
    is_url = address.startswith("ssh://")
    text = address.removeprefix("ssh://").rstrip("/") if is_url else address
    user, _, place = text.rpartition("@")
    found = _HOST.fullmatch(place) or _NAME.fullmatch(place)
    host, port = (found["address"], found["port"]) if found else (place, None)
    if not found and not _is_ipv6(place):
        raise _no_address(address)
    if is_url:
        user, host = unquote(user), unquote(host)
    if (
        host.startswith("-")
        or user.startswith("-")
        or text.startswith("@")
        or not (user + host).isprintable()
        or (port is not None and not 0 < int(port) < 1 << 16)
    ):
        raise _no_address(address)

    return Address(host=host, user=user, port=int(port or 0))


def _no_address(address: str) -> ConfigError:
    kind = re.match(r"([a-z]+):(?!\d+$)", address)
    problem = f"unknown kind of address `{kind[1]}`" if kind else "not an address of a board"
    if kind and kind[1] in ("http", "https"):
        # What stands before the host may be a key.
        shown = address.rpartition("@")[2]
        return ConfigError(f"{shown}: an endpoint, not a board", hint=f"{KINDS}; {ENDPOINTS}")
    return ConfigError(f"{address}: {problem}", hint=KINDS)


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _route(address: str, config_file: Path | None, hops: int) -> Route:
    if hops > MOST_JUMPS:
        raise ConfigError(
            f"{address}: ProxyJump leads over more than {MOST_JUMPS} hosts",
            hint="does it lead back to itself? see `ssh -G`",
        )

    parts = parse(address)
    settings = _settings(parts, config_file)
    host = _last(settings, "hostname")
    port = int(_last(settings, "port"))
    user = _last(settings, "user")
    alias = _last(settings, "hostkeyalias").lower()
    names = _Names(parts, settings)
    return Route(
        address=address,
        host=host,
        port=port,
        user=user,
        known_as=alias or host_name(host, port),
        known_hosts=_known_hosts(settings, names),
        known_hosts_command=_known_hosts_command(_last(settings, "knownhostscommand"), names),
        revoked=_optional(_last(settings, "revokedhostkeys"), names),
        identities=_key_files(settings, "identityfile", names),
        certificates=_key_files(settings, "certificatefile", names),
        agent=_agent(settings.get("identityagent", ["SSH_AUTH_SOCK"])[-1], names),
        only_identities=_last(settings, "identitiesonly") == "yes",
        jump=_jump(_last(settings, "proxyjump"), config_file, hops),
        proxy_command=_command(settings, names),
    )


def _settings(parts: Address, config_file: Path | None) -> Settings:
    """Return the settings that OpenSSH's client prints; its defaults where there is no client."""
    config = config_file or Path.home() / ".ssh" / "config"
    try:
        return openssh.client_settings(
            parts.host, user=parts.user, port=parts.port, config=_unusual(config)
        )
    except ToolError as error:
        if config.is_file():
            raise ToolError(
                f"{config}: only OpenSSH's client can read it: {error.message}", hint=error.hint
            ) from error

    return {
        "hostname": [parts.host],
        "user": [parts.user or _own_name()],
        "port": [str(parts.port or SSH_PORT)],
        "identityfile": [f"~/.ssh/{name}" for name in _KEY_NAMES],
    }


def _unusual(config: Path) -> Path | None:
    """Return a configuration file that OpenSSH does not read by itself, or None.

    OpenSSH takes the home of the user database, whatever HOME says.
    """
    usual = _passwd_home() / ".ssh" / "config"
    if config == usual:
        return None
    return config if config.is_file() else Path(os.devnull)


def _passwd_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


def _own_name() -> str:
    """Return the calling user's name by the user database."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return getpass.getuser()


def _last(settings: Settings, name: str) -> str:
    value = settings.get(name, [""])[-1]
    return "" if value.lower() == "none" else value


class _Names:
    """Tokens and variables of ssh_config(5), which `ssh -G` leaves in file names and commands."""

    def __init__(self, parts: Address, settings: Settings) -> None:
        host, port = _last(settings, "hostname"), _last(settings, "port")
        user, jump = _last(settings, "user"), _last(settings, "proxyjump")
        here = socket.gethostname()
        together = f"{here}{host}{port}{user}{jump}".encode()
        self._tokens = {
            "%": "%",
            "C": hashlib.sha1(together, usedforsecurity=False).hexdigest(),
            "d": str(Path.home()),
            "h": host,
            "i": str(os.getuid()),
            "j": jump,
            "k": _last(settings, "hostkeyalias") or parts.host,
            "L": here.partition(".")[0],
            "l": here,
            "n": parts.host,
            "p": port,
            "r": user,
            "u": _own_name(),
        }

    def command(self, text: str) -> str:
        """Return a command with its tokens filled in; the shell does the rest."""
        return re.sub(r"%(.)", lambda token: self._token(token, text), text)

    def argument(self, text: str, later: str) -> str:
        """Return a word with its tokens and variables filled in, but those in `later` and `%%`."""

        def fill(found: "re.Match[str]") -> str:
            """Return the text of one token or variable."""
            if found[1] is None:
                return self._variable(found, text, group=2).replace("%", "%%")
            is_later = found[1] in f"{later}%"
            return found[0] if is_later else self._token(found, text).replace("%", "%%")

        return re.sub(r"%(.)|\$\{(\w+)\}", fill, text)

    def path(self, text: str) -> str:
        """Return a path with tokens and variables filled in, `~` being the user's home."""
        filled = re.sub(r"\$\{(\w+)\}", lambda name: self._variable(name, text), self.command(text))
        return str(Path(filled).expanduser())

    def _token(self, found: "re.Match[str]", text: str) -> str:
        if found[1] not in self._tokens:
            raise ConfigError(f"~/.ssh/config: `{text}`: unknown token `{found[0]}`")
        return self._tokens[found[1]]

    def _variable(self, found: "re.Match[str]", text: str, group: int = 1) -> str:
        name = found[group]
        if name not in os.environ:
            raise ConfigError(f"~/.ssh/config: `{text}`: `{name}` is not set")
        return os.environ[name]


def _known_hosts(settings: Settings, names: _Names) -> tuple[Path, ...]:
    users = _files(_last(settings, "userknownhostsfile"), names)
    ours = Path.home() / ".ssh"
    theirs = _passwd_home() / ".ssh"
    usual = [theirs / "known_hosts", theirs / "known_hosts2"]
    if not users or users == usual:
        users = [ours / "known_hosts", ours / "known_hosts2"]

    systems = _files(_last(settings, "globalknownhostsfile"), names) or _SYSTEM_KNOWN_HOSTS
    return (*users, *systems)


def _known_hosts_command(command: str, names: _Names) -> tuple[str, ...]:
    """Return the words of a KnownHostsCommand; raise ConfigError where OpenSSH refuses it."""
    if not command:
        return ()
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"~/.ssh/config: `{command}`: its quotes do not close") from error
    filled = tuple(names.argument(word, later="HIKft") for word in words)
    if not filled or not filled[0].startswith("/"):
        raise ConfigError(
            f"~/.ssh/config: KnownHostsCommand `{command}`: the program's path is not absolute"
        )
    return filled


def _optional(text: str, names: _Names) -> Path | None:
    return Path(names.path(text)) if text else None


def _files(text: str, names: _Names) -> list[Path]:
    """Return the paths of a line. OpenSSH separates them by spaces and does not quote spaces."""
    return [Path(names.path(part)) for part in re.split(r" (?=[/~])", text) if part]


def _key_files(settings: Settings, name: str, names: _Names) -> tuple[str, ...]:
    return tuple(names.path(file) for file in settings.get(name, []) if file.lower() != "none")


def _agent(setting: str, names: _Names) -> str:
    """Return the agent's socket by IdentityAgent, or by the environment."""
    if setting.lower() == "none":
        return ""
    if setting == "SSH_AUTH_SOCK":
        return os.environ.get(setting, "")
    if setting.startswith("$") and not setting.startswith("${"):
        return os.environ.get(setting[1:], "")
    return names.path(setting)


def _command(settings: Settings, names: _Names) -> str:
    command = _last(settings, "proxycommand")
    if command and _last(settings, "proxyusefdpass") == "yes":
        raise ConfigError("~/.ssh/config: ProxyUseFdpass is not supported", hint="leave it out")
    return names.command(command)


def _jump(text: str, config_file: Path | None, hops: int) -> Route | None:
    """Return the route to the last host of a ProxyJump, through the hosts before it."""
    if not text:
        return None
    before, _, last = text.rpartition(",")
    way = _route(last, config_file, hops + 1)
    if not before:
        return way
    return replace(way, jump=_jump(before, config_file, hops + 1), proxy_command="")
