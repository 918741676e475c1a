"""One board of many: opened where a thread needs it, and the same for all that a fleet does."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from threading import Lock, get_ident
from typing import TypeVar

from toolchain.board.connection import Connection
from toolchain.board.device import Device
from toolchain.errors import ToolchainError
from toolchain.fleet.inventory import Fleet
from toolchain.progress import Reporter

Opener = Callable[[str], AbstractContextManager[Connection]]
"""Opens a connection to the board at an address: `toolchain.board.open_board`."""
Seen = TypeVar("Seen")


@contextmanager
def reach(address: str, opener: Opener) -> Iterator[Device]:
    """Yield a board of a fleet."""
    with opener(address) as connection:
        yield Device(connection)


def on_each(
    fleet: Fleet, opener: Opener, work: Callable[[Device], Seen], *, parallel: int = 0
) -> dict[str, Seen | ToolchainError]:
    """Return by address what `work` found on each board, or the error of that board."""

    def one(address: str) -> Seen | ToolchainError:
        """Return the result of one board, or its error."""
        try:
            with reach(address, opener) as device:
                return work(device)
        except ToolchainError as error:
            return error

    addresses = [board.address for board in fleet.boards]
    with ThreadPoolExecutor(parallel or fleet.rollout.parallel) as pool:
        return dict(zip(addresses, pool.map(one, addresses), strict=True))


class Together:
    """A reporter for threads: one line at a time, one bar for what all boards are sent."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._lock = Lock()
        self._steps: dict[tuple[str, int], tuple[float, float]] = {}

    def note(self, text: str) -> None:
        """Say one line."""
        with self._lock:
            self._report.note(text)

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        """Say how far the same step of all boards is."""
        with self._lock:
            self._steps[name, get_ident()] = (done, total)
            mine = [amount for (step, _), amount in self._steps.items() if step == name]
            done, total = map(sum, zip(*mine, strict=True))
            self._report.step(name, done, total, unit, figures)
