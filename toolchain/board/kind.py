"""Kinds of board: what an address names, and what differs between a real board and a simulated one.

`connection.kind` is one of them. Nobody else compares an address with `local` or `virtual:`.
"""

from dataclasses import dataclass

LOCAL = "local"
"""Address of this computer."""
VIRTUAL_PREFIX = "virtual:"
"""Beginning of the address of a virtual board; the target's id follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What differs between kinds of board."""

    simulated: bool
    """Whether only this computer can reach it. Such a board asks for no signature and no tunnel."""
    emulated: bool
    """Whether its processor is emulated, so that its speed is no board's."""
    unjudged: str = ""
    """Why the speed of a release says nothing here; empty for a real board."""
    service: str = ""
    """Service that runs a release (device/service.py); empty: what the board itself has."""
    timeouts: tuple[str, ...] = ()
    """Options that give a release more time than its size tells; for `activate` and `rollback`."""


REAL = Kind(simulated=False, emulated=False)
THIS_COMPUTER = Kind(
    simulated=True,
    emulated=False,
    unjudged="this computer is no board of its own",
    service="supervised",
)
VIRTUAL = Kind(
    simulated=True,
    emulated=True,
    unjudged="the board is emulated",
    # The longest that any board may take (device/health.py).
    timeouts=("--check-timeout", "900", "--health-timeout", "300"),
)


def kind_of(address: str) -> Kind:
    """Return the kind of board that an address names."""
    if address == LOCAL:
        return THIS_COMPUTER
    return VIRTUAL if address.startswith(VIRTUAL_PREFIX) else REAL
