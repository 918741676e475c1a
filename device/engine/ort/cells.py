"""The KV cache of one sequence in ONNX Runtime: a buffer for each layer, used in place.

Past and present of a layer are bound to the same memory (IOBinding), so that a token writes its own
row and copies none. Prompts are read in pieces of the same length; the last token of a batch is
evaluated alone and gives the logits. So reading a batch again gives the same bits.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE = 64
"""Tokens that are read at once, at most."""
# A request that is cancelled ends within one piece; longer pieces were not faster on two cores
# (SmolLM2-135M, 512 tokens).
_HEAD = struct.Struct("<I")


@dataclass(frozen=True)
class Sizes:
    """What a decoder's inputs and outputs say of its size."""

    layers: int
    kv_heads: int
    width: int
    n_vocab: int
    context: int
    """Positions that the file has angles for."""


class OrtCells:
    """The memory of a session, and the evaluation of tokens in it."""

    def __init__(self, session: Any, sizes: Sizes, context: int) -> None:
        """Bind a session to a memory of `context` tokens."""
        self._session = session
        self._context = context
        self.n_vocab = sizes.n_vocab
        self._binding = session.io_binding()
        shape = (1, sizes.kv_heads, context, sizes.width)
        self._caches = [np.zeros(shape, np.float32) for _ in range(2 * sizes.layers)]
        self._tokens = np.zeros((1, PIECE), np.int64)
        self._mask = np.ones((1, context), np.int64)
        self._first = np.array([-1], np.int64)
        """Logits are computed for the last token of a piece alone."""
        self._row = np.zeros((1, 1, sizes.n_vocab), np.float32)

        for number, cache in enumerate(self._caches):
            layer, part = number // 2, ("key", "value")[number % 2]
            self._bind(f"past_key_values.{layer}.{part}", cache, shape)
            self._bind_output(f"present.{layer}.{part}", cache)
        self._bind("first_logits", self._first, (1,))
        self._bind_output("logits", self._row)

        self._cancelled: "Callable[[], bool] | None" = None
        self.rows: "list[NDArray[np.float32]]" = []
        """Logits of the last evaluation: of every token if `every_row` was set, else of the last
        one."""

    def evaluate(self, tokens: Sequence[int], start: int, *, every_row: bool = False) -> bool:
        """Evaluate tokens at position `start`; return False if it was cancelled."""
        self.rows = []
        single = 0 if every_row else len(tokens) - 1
        ends = [*range(PIECE, single, PIECE), *([single] if single else [])]
        ends += range(single + 1, len(tokens) + 1)
        first = 0

        for end in ends:
            if self._cancelled and self._cancelled():
                return False
            self._run(tokens[first:end], start + first)
            if end > single:
                self.rows.append(self._row[0, 0].copy())
            first = end

        return True

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
        row_bytes = sum(cache.nbytes for cache in self._caches) // self._context
        return _HEAD.size + length * row_bytes

    def dump(self, length: int) -> bytes:
        """Return the rows of `length` tokens in all caches."""
        return _HEAD.pack(length) + b"".join(
            cache[0, :, :length].tobytes() for cache in self._caches
        )

    def load(self, state: bytes) -> int:
        """Load rows into the caches and return their number.

        0 if they are not a state of this model.
        """
        length = _HEAD.unpack_from(state)[0] if len(state) >= _HEAD.size else 0
        if not 0 < length <= self._context or len(state) != self.size_bytes(length):
            return 0

        at = _HEAD.size
        for cache in self._caches:
            rows = cache[0, :, :length]
            values = np.frombuffer(state, np.float32, rows.size, at)
            rows[...] = values.reshape(rows.shape)
            at += values.nbytes

        return int(length)

    def close(self) -> None:
        """Give the memory back."""
        self._binding = self._session = None
        self._caches = []

    def _run(self, tokens: Sequence[int], start: int) -> None:
        """Read tokens at a position; the logits after the last one are in `_row` then."""
        count = len(tokens)
        self._tokens[0, :count] = tokens
        self._bind("input_ids", self._tokens, (1, count))
        self._bind("attention_mask", self._mask, (1, start + count))
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the library's own ones have no narrower parent
            raise DeviceError(
                "engine_failed", f"the engine gave up after {start} tokens: {error}"[:300]
            ) from error

    def _bind(self, name: str, values: "NDArray[Any]", shape: tuple[int, ...]) -> None:
        """Bind an input to the beginning of an array."""
        self._binding.bind_input(name, "cpu", 0, values.dtype.type, shape, values.ctypes.data)

    def _bind_output(self, name: str, values: "NDArray[Any]") -> None:
        self._binding.bind_output(
            name, "cpu", 0, values.dtype.type, values.shape, values.ctypes.data
        )
