"""The one sequence in an engine's memory: extended, cut, cached and loaded again."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from device.engine.base import never
from device.engine.machine import memory_bytes
from device.engine.states import Memory, PrefixCache, batch_end, of_prefix
from device.manifest.memory import prefix_cache_bytes

_LEAST_CACHED = 32
"""Tokens after its prefix from which on a conversation is saved: fewer are read again as fast."""


class Cells(Protocol):
    """Where an engine holds the keys and values of one sequence."""

    def evaluate(self, tokens: Sequence[int], start: int, *, every_row: bool = False) -> bool:
        """Evaluate at most a batch of tokens at position `start`; return False if cancelled."""

    def watch(self, cancelled: "Callable[[], bool] | None") -> None:
        """Ask `cancelled` during evaluations from now on; None stops asking."""

    def cut_to(self, length: int) -> bool:
        """Forget all tokens after the first `length`; return False if the library cannot."""

    def clear(self) -> None:
        """Forget everything."""

    def size_bytes(self, length: int) -> int:
        """Return the size of the state of all `length` tokens."""

    def dump(self, length: int) -> bytes:
        """Return the state of all `length` tokens."""

    def load(self, state: bytes) -> int:
        """Load a state into the empty memory and return its number of tokens.

        0 if it is not a state.
        """

    def close(self) -> None:
        """Give the memory back."""


class ReadSequence:
    """The tokens in an engine's memory, and the prefix cache of earlier sequences."""

    def __init__(self, cells: Cells, slots: int = 1) -> None:
        self._cells = cells
        self._cache = PrefixCache(prefix_cache_bytes(memory_bytes("MemTotal")) // slots)
        self.live = Memory()
        """The sequence in memory."""

    def __len__(self) -> int:
        """Return the number of tokens in memory."""
        return len(self.live.tokens)

    def decode(self, tokens: Sequence[int], *, every_row: bool = False) -> bool:
        """Evaluate at most a batch of tokens after those in memory.

        Return False if it was cancelled; then the memory is empty.
        """
        evaluated = False
        try:
            evaluated = self._cells.evaluate(tokens, len(self), every_row=every_row)
        finally:
            if not evaluated:
                self.clear()

        self.live.tokens.extend(tokens if evaluated else ())
        return evaluated

    def read(
        self, tokens: Sequence[int], prefix: int = 0, cancelled: Callable[[], bool] = never
    ) -> "int | None":
        """Bring a prompt into memory, its prefix in batches of its own.

        Return the number of tokens that were reused; None if it was cancelled.
        """
        with self.watched(cancelled):
            reused = self._reuse(tokens, prefix)
            whole = (not prefix or self._read_prefix(tokens[:prefix])) and self._read_on(tokens)

        self.live.asked = len(self)
        return reused if whole else None

    @contextmanager
    def watched(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """End evaluations inside this context as soon as `cancelled` returns true."""
        self._cells.watch(cancelled)
        try:
            yield
        finally:
            self._cells.watch(None)

    def saved(self, prefix: Sequence[int]) -> bytes:
        """Return the state after these tokens alone.

        They are read first if the prefix cache lacks it.
        """
        if not self._cache.state_of(prefix):
            self.begin(prefix)
        return self._cache.state_of(prefix)

    def begin(self, prefix: Sequence[int]) -> None:
        """Bring these tokens alone into memory, from the prefix cache if they are in it."""
        if prefix:
            self._reuse([*prefix, prefix[-1]], len(prefix))
            self._read_prefix(prefix)
        else:
            self.clear()

    def restore(self, prefix: Sequence[int], state: bytes) -> bool:
        """Load a state and pin it in the prefix cache; return False if it is of other tokens."""
        if not self._load(of_prefix(prefix), state):
            return False
        self._cache.put(of_prefix(prefix), state, pinned=True)
        return True

    def time_prompt(self, tokens: Sequence[int]) -> float:
        """Return the seconds that a prompt takes in an empty memory."""
        self.clear()
        began = time.perf_counter()
        self.read(tokens)
        return time.perf_counter() - began

    def time_decode(self, tokens: Sequence[int]) -> float:
        """Return the seconds that decoding takes, a token at a time, from an empty KV cache."""
        self.clear()
        began = time.perf_counter()
        for token in tokens:
            self.decode([token])
        return time.perf_counter() - began

    def cut_to(self, length: int) -> bool:
        """Forget all tokens after the first `length`.

        Return False if the engine cannot; then the memory is empty.
        """
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
        """Empty the memory and the prefix cache."""
        self.clear()
        self._cache.clear()

    def close(self) -> None:
        """Give the memory back."""
        self._cells.close()

    def _reuse(self, tokens: Sequence[int], prefix: int) -> int:
        """Bring the longest reusable beginning of a prompt into memory.

        Return its length in tokens.
        """
        usable = self.live.usable(tokens, prefix)
        continues = usable > self.live.asked

        if not continues:
            cached = self._cache.best(tokens, prefix)
            self._cache_conversation()
            if cached and cached[0] > usable:
                length, memory, state = cached
                usable = length if self._load(memory, state) else 0

        usable = usable if self.cut_to(usable) else 0
        self.live.prefix = prefix
        return usable

    def _cache_conversation(self) -> None:
        """Save the conversation in memory to the prefix cache before another takes its place."""
        if len(self) - self.live.prefix >= _LEAST_CACHED:
            self._save()

    def _read_prefix(self, prefix: Sequence[int]) -> bool:
        """Bring a prefix into memory and save it to the prefix cache; return False if cancelled."""
        if len(self) >= len(prefix):
            return True
        if not self._read_on(prefix):
            return False

        self.live.asked = len(prefix)
        if self.live.cuts[-1] != len(prefix):
            self.live.cuts.append(len(prefix))  # the prompt after it begins a batch here
        self._save()
        return True

    def _read_on(self, tokens: Sequence[int]) -> bool:
        """Evaluate the tokens of a prompt that are not in memory; return False if cancelled."""
        at = len(self)
        while at < len(tokens):
            end = batch_end(tokens, at)
            if at != self.live.cuts[-1]:
                self.live.cuts.append(at)
            if not self.decode(tokens[at:end]):
                return False
            at = end
        return True

    def _save(self) -> None:
        """Save the state of the whole memory to the prefix cache, if it fits."""
        if self._cache.make_room(self.live, self._cells.size_bytes(len(self))):
            self._cache.put(self.live.copy(), self._cells.dump(len(self)))

    def _load(self, memory: Memory, state: bytes) -> bool:
        """Replace the memory with a saved state.

        If it does not hold the expected tokens, clear the memory, drop the state and return False.
        """
        self.clear()
        if self._cells.load(state) == len(memory.tokens):
            self.live = memory.copy()
            return True

        self.clear()
        self._cache.drop(memory)
        return False


def arbitrary(n_tokens: int, n_vocab: int) -> list[int]:
    """Return random tokens to be timed, the same ones each time."""
    choose = random.Random(0)  # noqa: S311
    return [choose.randrange(n_vocab) for _ in range(n_tokens)]
