"""The KV cache of one sequence in ONNX Runtime: a buffer for each layer, used in place.

Past and present of a layer are bound to the same memory (IOBinding), so that a token writes its own
row and copies none. Prompts are read in pieces of the same length; the last token of a batch is
evaluated alone and gives the logits. So reading a batch again gives the same bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from device.engine.rows import RowCells
from device.errors import DeviceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE = 64
"""Tokens that are read at once, at most."""
# A request that is cancelled ends within one piece; longer pieces were not faster on two cores
# (SmolLM2-135M, 512 tokens).


@dataclass(frozen=True)
class Sizes:
    """What a decoder's inputs and outputs say of its size."""

    layers: int
    kv_heads: int
    width: int
    n_vocab: int
    context: int
    """Positions that the file has angles for."""


class OrtCells(RowCells):
    """The memory of a session, and the evaluation of tokens in it."""

    def __init__(self, session: Any, sizes: Sizes, context: int) -> None:
        """Bind a session to a memory of `context` tokens."""
        super().__init__()
        self._session = session
        self.context = context
        self.n_vocab = sizes.n_vocab
        self._binding = session.io_binding()
        shape = (1, sizes.kv_heads, context, sizes.width)
        self._caches = [np.zeros(shape, np.float32) for _ in range(2 * sizes.layers)]
        self._tokens = np.zeros((1, PIECE), np.int64)
        self._mask = np.ones((1, context), np.int64)
        self._first = np.array([-1], np.int64)
        """Logits are computed for the last token of a piece alone."""
        self._row = np.zeros((1, 1, sizes.n_vocab), np.float32)
        self._bound = 0
        """Number of tokens that the session reads next."""

        for number, cache in enumerate(self._caches):
            layer, part = number // 2, ("key", "value")[number % 2]
            self._bind(f"past_key_values.{layer}.{part}", cache, shape)
            self._bind_output(f"present.{layer}.{part}", cache)
        self._bind("first_logits", self._first, (1,))
        self._bind_output("logits", self._row)

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
                # The only row is read before the next evaluation; to copy it costs page faults.
                self.rows.append(self._row[0, 0].copy() if every_row else self._row[0, 0])
            first = end

        return True

    def close(self) -> None:
        """Give the memory back."""
        self._binding = self._session = None
        self._caches = []

    def _views(self) -> "Iterator[NDArray[np.float32]]":
        yield from self._caches

    def _run(self, tokens: Sequence[int], start: int) -> None:
        """Read tokens at a position; the logits after the last one are in `_row` then."""
        count = len(tokens)
        self._tokens[0, :count] = tokens
        if count != self._bound:
            self._bind("input_ids", self._tokens, (1, count))
            self._bound = count
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
