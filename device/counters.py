"""The highest counter of each name that was ever committed on this board, in two copies.

Each copy is sealed (disk.py), so that a rotten one is recognised, whichever bits changed. The rule:
a copy is replaced as a whole, and the second one only after the first is on the disk. So one of
them may be lost.
"""

from pathlib import Path
from typing import Any

from device.disk import read_json, write_json

COPIES = ("counters.json", "counters.copy.json")


class Counters:
    """The counters of a store, by its folder."""

    def __init__(self, root: Path) -> None:
        self._copies = [root / name for name in COPIES]

    def read(self) -> dict[str, int]:
        """Return the highest committed counter of each name."""
        highest: dict[str, int] = {}
        for copy in self._copies:
            for name, counter in _counters(read_json(copy, sealed=True)).items():
                highest[name] = max(highest.get(name, 0), counter)
        return highest

    def keep(self, name: str, counter: int) -> None:
        """Note that a counter was committed.

        A copy that was lost or rotten is whole again afterwards.
        """
        highest = self.read()
        highest[name] = max(highest.get(name, 0), counter)
        self._write(highest)

    def mend(self) -> None:
        """Write both copies again if one of them has rotted or is lost."""
        if highest := self.read():
            self._write(highest)

    def _write(self, highest: dict[str, int]) -> None:
        for copy in self._copies:
            write_json(copy, {"counters": highest})


def _counters(copy: "dict[str, Any] | None") -> dict[str, int]:
    """Return the counters in a copy; empty if it is not what was written."""
    counters = (copy or {}).get("counters")
    if not isinstance(counters, dict):
        return {}
    return {name: counter for name, counter in counters.items() if type(counter) is int}
