"""Trusted host keys that a program prints: KnownHostsCommand of ssh_config(5).

The user's configuration names the program; it is run directly, without a shell, as OpenSSH's client
runs it, and prints lines of a known_hosts file. As there, a program that fails ends the connection.
"""

import base64
import re
import subprocess

import paramiko

from toolchain.board import known_hosts
from toolchain.board.known_hosts import KnownHosts
from toolchain.board.route import Route
from toolchain.errors import TrustError

TIMEOUT_S = 30.0
_NONE = "NONE"
"""What OpenSSH says of a key before the server has shown one."""


def known(way: Route, key: paramiko.PKey | None = None) -> KnownHosts:
    """Return what is trusted on a route, by its files and by its program.

    Without a `key` the program is asked which kinds of keys it knows (`ORDER`), with one for the
    keys of this host. Raises TrustError if it fails.
    """
    found = known_hosts.read(way.known_hosts)
    return found.with_lines(_printed(way, key)) if way.known_hosts_command else found


def _printed(way: Route, key: paramiko.PKey | None) -> list[str]:
    """Return the lines that the program printed."""
    program = way.known_hosts_command[0]
    try:
        done = subprocess.run(
            _words(way, key),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise _failed(way, f"`{program}`: {(error.strerror or '').lower()}") from error
    except subprocess.TimeoutExpired as error:
        raise _failed(way, f"`{program}` did not end in {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        last = said[-1] if said else f"exit status {done.returncode}"
        raise _failed(way, f"`{program}`: {last}")
    return done.stdout[: known_hosts.MAX_BYTES].decode(errors="replace").split("\n")


def _words(way: Route, key: paramiko.PKey | None) -> list[str]:
    """Return the program and its arguments."""
    about = {
        "%": "%",
        "H": way.known_as,
        "I": "HOSTNAME" if key else "ORDER",
        "K": base64.b64encode(key.asbytes()).decode() if key else _NONE,
        "f": str(key.fingerprint) if key else _NONE,
        "t": key.get_name() if key else _NONE,
    }
    fill = re.compile("%([%HIKft])")
    return [fill.sub(lambda found: about[found[1]], word) for word in way.known_hosts_command]


def _failed(way: Route, problem: str) -> TrustError:
    return TrustError(
        f"{way.address}: its host keys cannot be looked up: {problem}",
        hint="KnownHostsCommand of ~/.ssh/config names this program",
    )
