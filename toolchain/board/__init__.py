"""Boards: machines at an address, all reached through one narrow seam (connection.Connection)."""

import contextlib
from collections.abc import Iterator

from toolchain.board.connection import Connection
from toolchain.board.kind import REAL, THIS_COMPUTER, VIRTUAL, kind_of


@contextlib.contextmanager
def open_board(address: str, *, accept_new: bool = False) -> Iterator[Connection]:
    """Open a connection to a board and hang up afterwards.

    `address` is `user@host[:port]`, an alias of ~/.ssh/config, `local` or `virtual:<target>`.
    """
    from toolchain.board import loopback, ssh, virtual

    kind = kind_of(address)
    if kind is THIS_COMPUTER:
        with loopback.connect() as connection:
            yield connection
        return

    is_virtual = kind is VIRTUAL
    opened = virtual.connect(address) if is_virtual else ssh.connect(address, accept_new=accept_new)
    try:
        yield opened
    finally:
        opened.close()


def check_address(address: str) -> None:
    """Raise ConfigError for a text that is no board's address; nothing is reached for that."""
    from toolchain.board import route, virtual_name

    if kind_of(address) is REAL:
        route.parse(address)
    elif kind_of(address) is VIRTUAL:
        virtual_name.parse(address)
