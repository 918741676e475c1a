"""What a board has counted, as numbers with fixed names: no text, no time, no address.

Ratings and unanswered questions are the rows that its ring of feedback holds now; questions and
refusals are counted by its service since that began.
"""

from collections import Counter
from collections.abc import Sequence

from device.manifest.guard import ATTACK, CATEGORIES
from toolchain.board.device import Device
from toolchain.config import closest
from toolchain.errors import BoardError, ConfigError
from toolchain.rounds.harvest import kinds_on

ASKED = "asked"
KINDS = ("up", "down", "correction", "unknown")
_CATEGORIES = (*CATEGORIES, ATTACK, "other")
COUNTERS = (
    ASKED,
    *KINDS,
    *(f"refused/{what}/{each}" for what in ("question", "answer") for each in _CATEGORIES),
)
"""Names of all counters, in the order of a vector."""


def counted_on(device: Device, rings: set[str]) -> Counter[str]:
    """Return what one board has counted; raise BoardError if its service does not say.

    `rings` are the names of the rings that were counted before; its own is added. Raise ConfigError
    for a board that was counted before by another address.
    """
    service = device.call("status").get("service") or {}
    figures = service.get("figures")
    if not figures:
        raise BoardError(
            f"{device.address}: its service does not say what it has counted",
            hint=f"demitasse status {device.address} says how it is",
        )
    found: Counter[str] = Counter({ASKED: figures["asked"]})
    found.update({f"refused/{name}": count for name, count in figures["refused"].items()})
    ring, kinds = kinds_on(device)
    if ring and ring in rings:
        raise ConfigError(
            f"{device.address}: a board that is named by another address too",
            hint="name each board once",
        )
    rings.add(ring)
    found.update(kinds)
    return found


def vector_of(found: Counter[str], names: Sequence[str]) -> list[int]:
    """Return the counters of a round, in its order; those that it does not name are left out."""
    check_names(names)
    return [found[name] for name in names]


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a counter that no board has."""
    wrong = next((name for name in names if name not in COUNTERS), None)
    if wrong is not None:
        near = closest(wrong, list(COUNTERS))
        raise ConfigError(
            f"`{wrong[:80]}` is not counted",
            hint=near or f"counted are {', '.join(COUNTERS[:6])} and others: docs/rounds.md",
        )
