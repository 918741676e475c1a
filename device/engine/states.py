"""What an engine has read already: the sequence in its memory, and a bounded shelf of states of others.

The rule: a prompt takes up only where reading it from the beginning would have cut it too (after its lead, and every BATCH tokens
from there), or where its own conversation went on. So no answer depends on what others asked before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

BATCH = 512
"""Tokens that are read at once."""


@dataclass
class Memory:
    """A sequence that was read: a lead, questions and answers."""

    tokens: list[int] = field(default_factory=list)
    lead: int = 0
    """Of these, the ones that were read apart from the rest."""
    cuts: list[int] = field(default_factory=lambda: [0])
    """Where batches began, in ascending order."""
    asked: int = 0
    """Where the last prompt ended; behind it lies its answer."""

    def usable(self, prompt: Sequence[int], lead: int) -> int:
        """Return how many tokens of this sequence a prompt can take up; it always has one token more."""
        same = common(self.tokens, prompt[:-1])
        if lead == self.lead and same > self.asked:
            return same
        shared = self.cuts if lead == self.lead else cuts(0, min(lead, self.lead))
        return max(cut for cut in shared if cut <= same)

    def cut_to(self, length: int) -> None:
        """Forget what comes after so many tokens."""
        del self.tokens[length:]
        self.cuts = [cut for cut in self.cuts if cut <= length]
        self.asked = min(self.asked, length)

    def copy(self) -> "Memory":
        """Return a sequence of its own."""
        return Memory(list(self.tokens), self.lead, list(self.cuts), self.asked)


@dataclass(frozen=True)
class _Kept:
    memory: Memory
    state: bytes
    pinned: bool


class Shelf:
    """States of sequences that are not in memory, the least recently used ones dropped first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._kept: list[_Kept] = []
        """In the order of their use, the latest last."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all states."""
        return sum(len(kept.state) for kept in self._kept)

    def make_room(self, memory: Memory, size_bytes: int) -> bool:
        """Drop those of the same conversation's beginning, and others, for a state to come; return whether it has room then."""
        if size_bytes > self.limit_bytes:
            return False
        self._kept = [
            kept for kept in self._kept if kept.pinned or not _outgrown(kept.memory, memory)
        ]
        free = self.limit_bytes - size_bytes
        while self.size_bytes > free and (
            loose := next((kept for kept in self._kept if not kept.pinned), None)
        ):
            self._kept.remove(loose)
        return self.size_bytes <= free

    def put(self, memory: Memory, state: bytes, *, pinned: bool = False) -> None:
        """Keep a state if it has room; a pinned one is kept in any case, until `clear`."""
        if self.make_room(memory, len(state)) or pinned:
            self._kept.append(_Kept(memory, state, pinned))

    def best(self, prompt: Sequence[int], lead: int) -> "tuple[int, Memory, bytes] | None":
        """Return how many tokens can be taken up, and of what, where any can; it counts as used."""
        found = max(self._kept, key=lambda kept: kept.memory.usable(prompt, lead), default=None)
        if found is None or not (usable := found.memory.usable(prompt, lead)):
            return None
        self._kept.remove(found)
        self._kept.append(found)
        return usable, found.memory.copy(), found.state

    def state_of(self, tokens: Sequence[int]) -> bytes:
        """Return the state of exactly these tokens; nothing where it is not here."""
        return next((kept.state for kept in self._kept if kept.memory.tokens == list(tokens)), b"")

    def drop(self, memory: Memory) -> None:
        """Drop a sequence whose state turned out not to be one."""
        self._kept = [kept for kept in self._kept if kept.memory.tokens != memory.tokens]

    def clear(self) -> None:
        """Drop everything."""
        self._kept.clear()


def cuts(begin: int, end: int) -> range:
    """Return where batches begin when all between two positions is read."""
    return range(begin, end + 1, BATCH)


def of_lead(lead: Sequence[int]) -> Memory:
    """Return the sequence of a lead alone."""
    return Memory(list(lead), len(lead), sorted({*cuts(0, len(lead)), len(lead)}), len(lead))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)


def _outgrown(old: Memory, new: Memory) -> bool:
    """Say whether `new` is the same sequence, or the conversation `old` gone on (a bare lead is no conversation)."""
    same = common(old.tokens, new.tokens) == len(old.tokens)
    return same and (len(old.tokens) == len(new.tokens) or old.asked < len(old.tokens))
