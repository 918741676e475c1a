"""The KV cache of one sequence as rows of float32 arrays, which two of the engines have."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEAD = struct.Struct("<I")


class RowCells(ABC):
    """Caches of shape [1, heads, context, width] that keep a row for each token."""

    n_vocab: int
    context: int
    """Tokens that fit."""

    def __init__(self) -> None:
        self._cancelled: "Callable[[], bool] | None" = None
        self.rows: "list[NDArray[np.float32]]" = []
        """Logits of the last evaluation: of every token if `every_row` was set, else of the last
        one. They hold until the next evaluation."""

    @abstractmethod
    def _views(self) -> "Iterator[NDArray[np.float32]]":
        """Yield each cache in place, always in the same order."""

    def watch(self, cancelled: "Callable[[], bool] | None") -> None:
        """Ask `cancelled` between pieces from now on; None stops asking."""
        self._cancelled = cancelled

    def cut_to(self, length: int) -> bool:
        """Forget all tokens after the first `length`: no token sees a position behind its own."""
        return length >= 0

    def clear(self) -> None:
        """Forget everything."""
        self.rows = []

    def size_bytes(self, length: int) -> int:
        """Return the size of the rows of `length` tokens in all caches."""
        row_bytes = sum(cache.nbytes for cache in self._views()) // self.context
        return int(_HEAD.size + length * row_bytes)

    def dump(self, length: int) -> bytes:
        """Return the rows of `length` tokens in all caches."""
        return _HEAD.pack(length) + b"".join(
            cache[0, :, :length].tobytes() for cache in self._views()
        )

    def load(self, state: bytes) -> int:
        """Load rows into the caches and return their number.

        0 if they are not a state of this model.
        """
        length = _HEAD.unpack_from(state)[0] if len(state) >= _HEAD.size else 0
        if not 0 < length <= self.context or len(state) != self.size_bytes(length):
            return 0

        at = _HEAD.size
        for cache in self._views():
            rows = cache[0, :, :length]
            values = np.frombuffer(state, np.float32, rows.size, at)
            rows[...] = values.reshape(rows.shape)
            at += values.nbytes

        return int(length)
