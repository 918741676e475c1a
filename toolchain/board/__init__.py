"""Boards: machines at an address, all reached through one narrow seam (connection.Connection)."""

import contextlib
from collections.abc import Iterator

from toolchain.board.connection import Connection


def is_stand_in(address: str) -> bool:
    """Say whether an address is this computer or a virtual board: nobody else can reach those, so they ask for no signature."""
    from toolchain.board import loopback, virtual

    return address == loopback.ADDRESS or address.startswith(virtual.PREFIX)


@contextlib.contextmanager
def open_board(address: str, *, accept_new: bool = False) -> Iterator[Connection]:
    """Open a connection to `user@host[:port]`, an alias of ~/.ssh/config, `local` or `virtual:<target>`, and hang up afterwards."""
    from toolchain.board import loopback, ssh, virtual

    if address == loopback.ADDRESS:
        with loopback.connect() as connection:
            yield connection
        return
    is_virtual = address.startswith(virtual.PREFIX)
    opened = virtual.connect(address) if is_virtual else ssh.connect(address, accept_new=accept_new)
    try:
        yield opened
    finally:
        opened.close()
