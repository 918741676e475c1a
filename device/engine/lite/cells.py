"""The KV cache of one sequence in LiteRT: the `decode` graph's own input tensors, written in place.

Prompts are read in pieces of the lengths that the file has graphs for; `decode` reads the rest and
gives the logits. How a batch is cut depends only on its length and place, so that reading it again
gives the same bits.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from device.engine.rows import RowCells
from device.errors import DeviceError
from device.manifest.tflite import Header

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HIDDEN = np.float32(-1e9)
"""Number added to the score of each position that a token must not see."""


class LiteCells(RowCells):
    """The memory of an interpreter, and the evaluation of tokens in it."""

    def __init__(self, interpreter: Any, header: Header) -> None:
        super().__init__()
        self._interpreter = interpreter
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner("decode")
        self._inputs, self._outputs = (
            _places(runner.get_input_details()),
            _places(runner.get_output_details()),
        )
        del runner  # the interpreter runs only while nobody else holds it
        self._caches = sorted(name for name in self._inputs if name.startswith("kv_cache_"))
        signatures = {signature.name: signature for signature in header.signatures}
        self.context = signatures["decode"].inputs["mask"].shape[-1]
        self.n_vocab = signatures["decode"].outputs["logits"].shape[-1]
        self.pieces = tuple(
            sorted(
                signatures[name].inputs["tokens"].shape[-1]
                for name in signatures
                if name != "decode"
            )
        )
        self._keys = np.arange(self.context, dtype=np.int32)
        self._inputs_stay = False
        self._inputs_stay = self._proved()

        for name in self._caches:
            # Positions that are masked out are multiplied by 0, and 0 times NaN is NaN.
            self._view(name)[...] = 0

    def evaluate(self, tokens: Sequence[int], start: int, *, every_row: bool = False) -> bool:
        """Evaluate tokens at position `start`; return False if it was cancelled."""
        self.rows = []
        single = 0 if every_row else len(tokens) - 1

        for first, count, room in cut(single, self.pieces, self.context - start):
            if self._cancelled and self._cancelled():
                return False
            self._prefill(tokens[first : first + count], start + first, room)

        done = sum(count for _, count, _ in cut(single, self.pieces, self.context - start))
        for at in range(done, len(tokens)):
            if self._cancelled and self._cancelled():
                return False
            row = self._decode(tokens[at], start + at)
            self.rows = [*self.rows, row] if every_row else [row]

        return True

    def close(self) -> None:
        """Give the memory back."""
        self._interpreter = None

    def _proved(self) -> bool:
        """Say whether this library keeps a graph's inputs while it runs."""
        # All versions that were tried do, and none promises it.
        for name in self._caches:
            self._view(name)[...] = 1
        self._run(0, 0)
        return all(bool((self._view(name)[0, :, 1:] == 1).all()) for name in self._caches)

    def _views(self) -> "Iterator[NDArray[np.float32]]":
        for name in self._caches:
            yield self._view(name)

    def _view(self, name: str) -> "NDArray[np.float32]":
        """Return a cache in place; the interpreter does not run while one is held."""
        view: NDArray[np.float32] = self._interpreter.tensor(self._inputs[name])()
        return view

    def _mask(self, position: "NDArray[np.int32]") -> "NDArray[np.float32]":
        return np.where(self._keys <= position[:, None], np.float32(0), _HIDDEN)[None, None]

    def _prefill(self, tokens: Sequence[int], start: int, room: int) -> None:
        """Read tokens with the graph for `room` of them.

        Positions behind them are overwritten later, and no token sees them before.
        """
        position = np.arange(start, start + room, dtype=np.int32)
        padded = np.zeros((1, room), np.int32)
        padded[0, : len(tokens)] = tokens
        caches = {name: self._view(name) for name in self._caches}

        try:
            found = self._interpreter.get_signature_runner(f"prefill_{room}")(
                tokens=padded, input_pos=position, mask=self._mask(position), **caches
            )
        except (RuntimeError, ValueError) as error:
            raise _gave_up(start, error) from error

        for name, cache in caches.items():
            cache[:, :, start : start + room] = found[name][:, :, start : start + room]

    def _decode(self, token: int, at: int) -> "NDArray[np.float32]":
        """Read one token and return the logits of the next one."""
        self._run(token, at)
        tensor = self._interpreter.tensor
        inputs = self._inputs
        rows = slice(at, at + 1) if self._inputs_stay else slice(None)

        for name in self._caches:
            tensor(inputs[name])()[:, :, rows] = tensor(self._outputs[name])()[:, :, rows]

        row: NDArray[np.float32] = tensor(self._outputs["logits"])().reshape(-1).copy()
        return row

    def _run(self, token: int, at: int) -> None:
        tensor = self._interpreter.tensor
        inputs = self._inputs
        position = np.array([at], np.int32)
        tensor(inputs["tokens"])()[...] = token
        tensor(inputs["input_pos"])()[...] = position
        tensor(inputs["mask"])()[...] = self._mask(position)

        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise _gave_up(at, error) from error


def cut(count: int, pieces: Sequence[int], room: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first token, number of tokens, length of the graph) of each piece.

    Tokens behind the last piece are read one at a time. A graph at most twice as long as the rest
    is padded: its weights are read once, however few tokens there are.
    """
    first = 0
    while first < count:
        left = count - first
        longer = [length for length in pieces if left <= length <= min(2 * left, room - first)]
        shorter = [length for length in pieces if length <= left]
        if not longer and not shorter:
            return
        length = min(longer) if longer else max(shorter)
        yield first, min(length, left), length
        first += min(length, left)


def _places(details: dict[str, Any]) -> dict[str, int]:
    return {name: int(detail["index"]) for name, detail in details.items()}


def _gave_up(start: int, error: Exception) -> DeviceError:
    return DeviceError("engine_failed", f"the engine gave up after {start} tokens: {error}"[:300])
