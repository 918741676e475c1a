"""Ports of this computer that nobody listens on."""

import socket


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keep_ports(count: int) -> list[socket.socket]:
    """Return sockets with ports that nobody else is given while they are open.

    They do not listen, and let a service that asks to reuse the address have it.
    """
    kept = [socket.socket() for _ in range(count)]
    for each in kept:
        each.bind(("127.0.0.1", 0))
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return kept
