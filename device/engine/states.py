"""What an engine has read: the sequence in its memory, and the prefix cache with states of others.

The rule: a prompt reuses tokens only up to a place where reading it from the beginning would have
begun a batch too (after its prefix, and every BATCH tokens from there,
earlier before a picture), or up to where its own
conversation ended. So no answer depends on what others asked before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from device.engine.base import is_picture

BATCH = 512
"""Tokens that are read at once."""


@dataclass
class Memory:
    """A sequence that was read: a prefix, questions and answers."""

    tokens: list[int] = field(default_factory=list)
    prefix: int = 0
    """Number of the first tokens that were read apart from the rest."""
    cuts: list[int] = field(default_factory=lambda: [0])
    """Positions where batches began, in ascending order."""
    asked: int = 0
    """Position where the last prompt ended; behind it is its answer."""

    def usable(self, prompt: Sequence[int], prefix: int) -> int:
        """Return how many tokens of this sequence a prompt can reuse.

        At least one token of the prompt is always left to be read.
        """
        same = common(self.tokens, prompt[:-1])
        if prefix == self.prefix and same > self.asked:
            return same

        alike = min(prefix, self.prefix)
        shared = self.cuts if prefix == self.prefix else cuts(self.tokens, alike)
        return max(cut for cut in shared if cut <= same)

    def cut_to(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        del self.tokens[length:]
        self.cuts = [cut for cut in self.cuts if cut <= length]
        self.asked = min(self.asked, length)

    def copy(self) -> "Memory":
        """Return a copy that shares no list with this one."""
        return Memory(list(self.tokens), self.prefix, list(self.cuts), self.asked)


@dataclass(frozen=True)
class _Entry:
    memory: Memory
    state: bytes
    pinned: bool


class PrefixCache:
    """Saved states of sequences, at most `limit_bytes` in all.

    The least recently used state is evicted first.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._entries: list[_Entry] = []
        """In the order of their use, the latest last."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all states."""
        return sum(len(entry.state) for entry in self._entries)

    def make_room(self, memory: Memory, size_bytes: int) -> bool:
        """Evict until a state of `size_bytes` fits; return False if it cannot fit.

        Earlier states of the same conversation are evicted first.
        """
        if size_bytes > self.limit_bytes:
            return False

        self._entries = [
            entry for entry in self._entries if entry.pinned or not _outgrown(entry.memory, memory)
        ]

        free = self.limit_bytes - size_bytes

        while self.size_bytes > free:
            oldest = next((entry for entry in self._entries if not entry.pinned), None)
            if oldest is None:
                break
            self._entries.remove(oldest)

        return self.size_bytes <= free

    def put(self, memory: Memory, state: bytes, *, pinned: bool = False) -> None:
        """Keep a state if it fits; a pinned one is always kept, until `clear`."""
        if self.make_room(memory, len(state)) or pinned:
            self._entries.append(_Entry(memory, state, pinned))

    def best(self, prompt: Sequence[int], prefix: int) -> "tuple[int, Memory, bytes] | None":
        """Return the entry of which a prompt can reuse most, as (tokens, sequence, state).

        The entry counts as used. None if the prompt can reuse no entry.
        """
        best = max(
            self._entries, key=lambda entry: entry.memory.usable(prompt, prefix), default=None
        )
        if best is None or not (usable := best.memory.usable(prompt, prefix)):
            return None

        self._entries.remove(best)
        self._entries.append(best)
        return usable, best.memory.copy(), best.state

    def state_of(self, tokens: Sequence[int]) -> bytes:
        """Return the state of exactly these tokens; empty if it is not in the cache."""
        exact = list(tokens)
        return next((entry.state for entry in self._entries if entry.memory.tokens == exact), b"")

    def drop(self, memory: Memory) -> None:
        """Remove a sequence whose state turned out to be broken."""
        self._entries = [entry for entry in self._entries if entry.memory.tokens != memory.tokens]

    def clear(self) -> None:
        """Remove everything, pinned states too."""
        self._entries.clear()


def batch_end(tokens: Sequence[int], at: int) -> int:
    """Return where the batch that begins at `at` ends: after BATCH tokens, or before the picture
    that they would cut. Positions of a picture may see each other, so they are read at once.
    """
    end = min(at + BATCH, len(tokens))
    begin = end
    while at < begin < len(tokens) and _goes_on(tokens, begin):
        begin -= 1
    return begin if begin > at else end


def _goes_on(tokens: Sequence[int], at: int) -> bool:
    """Say whether a token is a position of the picture that the token before it belongs to."""
    return is_picture(tokens[at]) and tokens[at] == tokens[at - 1] - 1


def cuts(tokens: Sequence[int], end: int) -> list[int]:
    """Return the positions where batches begin if the first `end` tokens are read, from 0 on."""
    found = [0]
    while found[-1] + BATCH <= end:
        found.append(batch_end(tokens, found[-1]))
    return found


def of_prefix(prefix: Sequence[int]) -> Memory:
    """Return the sequence of a prefix alone."""
    length = len(prefix)
    return Memory(list(prefix), length, sorted({*cuts(prefix, length), length}), length)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def _outgrown(old: Memory, new: Memory) -> bool:
    """Say whether `new` is the same sequence as `old`, or the same conversation continued."""
    if common(old.tokens, new.tokens) < len(old.tokens):
        return False

    # a prefix alone is not a conversation: others will reuse it
    has_answer = old.asked < len(old.tokens)
    return len(old.tokens) == len(new.tokens) or has_answer
