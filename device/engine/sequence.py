"""The one sequence in an engine's memory: read on, cut off at the end, put away as a whole and taken back."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from device.engine.base import memory_bytes, never
from device.engine.states import BATCH, Memory, Shelf, of_lead
from device.manifest.memory import shelf_bytes

_LEAST_PUT_AWAY = 32
"""Tokens beyond its lead for which a conversation is put away: fewer are read again as fast."""


class Cells(Protocol):
    """Where an engine holds the keys and values of one sequence."""

    def evaluate(self, tokens: Sequence[int], start: int, *, every_row: bool = False) -> bool:
        """Evaluate at most a batch of tokens as those from position `start` on; return False where it was cancelled."""

    def watch(self, cancelled: "Callable[[], bool] | None") -> None:
        """Ask from now on whether to go on; None asks no more."""

    def cut_to(self, length: int) -> bool:
        """Forget what comes after so many tokens; return False where that cannot be done."""

    def clear(self) -> None:
        """Forget everything."""

    def size_bytes(self, length: int) -> int:
        """Return the size of the state of all `length` tokens."""

    def dump(self, length: int) -> bytes:
        """Return the state of all `length` tokens."""

    def load(self, state: bytes) -> int:
        """Take a state into the empty memory; return how many tokens it holds, 0 for what is no state."""

    def close(self) -> None:
        """Give the memory back."""


class ReadSequence:
    """What was read into an engine's memory, and the shelf of what was read before."""

    def __init__(self, cells: Cells, slots: int = 1) -> None:
        self._cells = cells
        self._shelf = Shelf(shelf_bytes(memory_bytes("MemTotal")) // slots)
        self.live = Memory()
        """What is in memory."""

    def __len__(self) -> int:
        """Return the tokens in memory."""
        return len(self.live.tokens)

    def decode(self, tokens: Sequence[int], *, every_row: bool = False) -> bool:
        """Evaluate at most a batch of tokens after those in memory; where it was cancelled return False, with nothing in memory."""
        evaluated = False
        try:
            evaluated = self._cells.evaluate(tokens, len(self), every_row=every_row)
        finally:
            if not evaluated:
                self.clear()
        self.live.tokens.extend(tokens if evaluated else ())
        return evaluated

    def read(
        self, tokens: Sequence[int], lead: int = 0, cancelled: Callable[[], bool] = never
    ) -> "int | None":
        """Have a prompt in memory, its lead read apart; return how many tokens were there, None where it was cancelled."""
        with self.watched(cancelled):
            reused = self._take_up(tokens, lead)
            whole = (not lead or self._read_lead(tokens[:lead])) and self._read_on(tokens)
        self.live.asked = len(self)
        return reused if whole else None

    @contextmanager
    def watched(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Have what is evaluated meanwhile end where `cancelled` turns true."""
        self._cells.watch(cancelled)
        try:
            yield
        finally:
            self._cells.watch(None)

    def saved(self, lead: Sequence[int]) -> bytes:
        """Return the state after these tokens alone, read first where it is not on the shelf."""
        if not self._shelf.state_of(lead):
            self.begin(lead)
        return self._shelf.state_of(lead)

    def begin(self, lead: Sequence[int]) -> None:
        """Have these tokens alone in memory, from the shelf where they are on it."""
        if lead:
            self._take_up([*lead, lead[-1]], len(lead))
            self._read_lead(lead)
        else:
            self.clear()

    def restore(self, lead: Sequence[int], state: bytes) -> bool:
        """Take a state back for good; say whether it holds as many tokens as it should."""
        if not self._load(of_lead(lead), state):
            return False
        self._shelf.put(of_lead(lead), state, pinned=True)
        return True

    def time_prompt(self, tokens: Sequence[int]) -> float:
        """Return the seconds that a prompt takes from an empty memory."""
        self.clear()
        began = time.perf_counter()
        self.read(tokens)
        return time.perf_counter() - began

    def time_decode(self, tokens: Sequence[int]) -> float:
        """Return the seconds that tokens take one at a time from an empty memory."""
        self.clear()
        began = time.perf_counter()
        for token in tokens:
            self.decode([token])
        return time.perf_counter() - began

    def cut_to(self, length: int) -> bool:
        """Forget what comes after so many tokens; return False where the engine cannot, and then there is nothing in memory."""
        if length == len(self) or self._cells.cut_to(length):
            self.live.cut_to(length)
            return True
        self.clear()
        return False

    def clear(self) -> None:
        """Empty the memory."""
        self._cells.clear()
        self.live = Memory()

    def forget(self) -> None:
        """Empty memory and shelf."""
        self.clear()
        self._shelf.clear()

    def close(self) -> None:
        """Give the memory back."""
        self._cells.close()

    def _take_up(self, tokens: Sequence[int], lead: int) -> int:
        """Have as much of a prompt in memory as there is of it; return how many tokens that is."""
        usable = self.live.usable(tokens, lead)
        goes_on = usable > self.live.asked
        shelved = None if goes_on else self._shelf.best(tokens, lead)
        if not goes_on:
            self._put_away()
        if shelved and shelved[0] > usable and self._load(*shelved[1:]):
            usable = shelved[0]
        usable = usable if self.cut_to(usable) else 0
        self.live.lead = lead
        return usable

    def _put_away(self) -> None:
        """Put a conversation on the shelf before another takes its place."""
        if len(self) - self.live.lead >= _LEAST_PUT_AWAY:
            self._keep()

    def _read_lead(self, lead: Sequence[int]) -> bool:
        """Have a lead in memory, and on the shelf too; return False where it was cancelled."""
        if len(self) >= len(lead):
            return True
        if not self._read_on(lead):
            return False
        self.live.asked = len(lead)
        self._keep()
        return True

    def _read_on(self, tokens: Sequence[int]) -> bool:
        """Evaluate those of a prompt's tokens that are not in memory; return False where it was cancelled on the way."""
        for at in range(len(self), len(tokens), BATCH):
            if at != self.live.cuts[-1]:
                self.live.cuts.append(at)
            if not self.decode(tokens[at : at + BATCH]):
                return False
        return True

    def _keep(self) -> None:
        """Put the state of the whole memory on the shelf, if it has the room."""
        if self._shelf.make_room(self.live, self._cells.size_bytes(len(self))):
            self._shelf.put(self.live.copy(), self._cells.dump(len(self)))

    def _load(self, memory: Memory, state: bytes) -> bool:
        """Have a state in memory instead of what is there; a state that is not what it should be leaves nothing and is dropped."""
        self.clear()
        if self._cells.load(state) == len(memory.tokens):
            self.live = memory.copy()
            return True
        self.clear()
        self._shelf.drop(memory)
        return False


def arbitrary(n_tokens: int, n_vocab: int) -> list[int]:
    """Return tokens to be timed, the same ones each time."""
    choose = random.Random(0)  # noqa: S311
    return [choose.randrange(n_vocab) for _ in range(n_tokens)]
