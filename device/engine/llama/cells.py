"""Keys and values in llama.cpp's memory, for the one sequence of a context."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_cpp import llama_cpp as llama

from device.engine.base import is_picture
from device.engine.llama import objects as opening
from device.engine.llama.threads import Threads
from device.errors import DeviceError

if TYPE_CHECKING:
    from device.engine.llama.eyes import Eyes

_ABORTED = 2
_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
"""Makes an uninitialised bytes object, to be filled before anybody else sees it."""
_new_bytes.restype, _new_bytes.argtypes = ctypes.py_object, (ctypes.c_char_p, ctypes.c_ssize_t)


class LlamaCells:
    """The memory of a context."""

    def __init__(self, ctx: Any, threads: Threads, eyes: "Eyes | None" = None) -> None:
        self._ctx = ctx
        self._eyes = eyes
        self._places: Any = None
        """Batch of a picture's positions, made with the first one."""
        self._threads = threads
        self._memory = llama.llama_get_memory(ctx)
        self._batch = opening.batch(llama.llama_n_batch(ctx))

    def evaluate(self, tokens: Sequence[int], start: int, *, every_row: bool = False) -> bool:
        """Evaluate at most a batch of tokens; return False if it was cancelled.

        Words and pictures are evaluated one after the other: every row of both has no place.
        """
        parts = _parts(tokens)
        if every_row and any(is_picture(tokens[first]) for first, _ in parts):
            raise DeviceError("unsupported", "rows of words and pictures together", status=400)
        for first, end in parts:
            part = tokens[first:end]
            is_last = end == len(tokens)
            is_seen = is_picture(part[0])
            batch = self._of_picture(part) if is_seen else self._of_words(part)
            batch.n_tokens = len(part)
            for row in range(len(part)):
                batch.pos[row] = start + first + row
                batch.logits[row] = every_row or (is_last and row == len(part) - 1)
            with self._seeing_each_other(is_seen):
                if not self._decoded(batch, start + first):
                    return False
        return True

    @contextmanager
    def _seeing_each_other(self, is_seen: bool) -> Iterator[None]:
        """Let the positions of a picture see each other, in a model that was trained so."""
        if not (is_seen and self._eyes and self._eyes.is_mutual):
            yield
            return
        llama.llama_set_causal_attn(self._ctx, False)
        try:
            yield
        finally:
            llama.llama_set_causal_attn(self._ctx, True)

    def _of_words(self, tokens: Sequence[int]) -> Any:
        for row, token in enumerate(tokens):
            self._batch.token[row] = token
        return self._batch

    def _of_picture(self, tokens: Sequence[int]) -> Any:
        """Return a batch with what stands in the place of a picture's positions."""
        assert self._eyes, "an engine without eyes knows no picture"
        rows = self._eyes.rows(tokens[0], len(tokens))
        if self._places is None:
            size = llama.llama_n_batch(self._ctx)
            self._places = opening.batch(size, self._eyes.width)
        ctypes.memmove(self._places.embd, rows, len(rows))
        return self._places

    def _decoded(self, batch: Any, start: int) -> bool:
        with self._threads.at_work():
            code = llama.llama_decode(self._ctx, batch)

        if code not in (0, _ABORTED):
            raise DeviceError(
                "engine_failed",
                f"the engine gave up after {start} tokens (code {code}){opening.because()}",
            )

        return bool(code == 0)

    def watch(self, cancelled: "Callable[[], bool] | None") -> None:
        """Ask `cancelled` from now on, between the layers too; None stops asking."""
        self._ask = (
            llama.ggml_abort_callback(lambda _: cancelled())
            if cancelled
            else llama.ggml_abort_callback()
        )
        llama.llama_set_abort_callback(self._ctx, self._ask, None)

    def cut_to(self, length: int) -> bool:
        """Forget all tokens after the first `length`; return False if llama.cpp cannot."""
        return bool(llama.llama_memory_seq_rm(self._memory, 0, length, -1))

    def clear(self) -> None:
        """Forget everything."""
        llama.llama_memory_clear(self._memory, False)

    def size_bytes(self, length: int) -> int:
        """Return the size of the whole sequence's state."""
        return int(llama.llama_state_seq_get_size(self._ctx, 0))

    def dump(self, length: int) -> bytes:
        """Return the state of the whole sequence."""
        # llama.cpp writes it into the object that is returned: it may be tens of megabytes.
        size = self.size_bytes(length)
        state: bytes = _new_bytes(None, size)
        written = int(llama.llama_state_seq_get_data(self._ctx, _pointer(state), size, 0))
        return state if written == size else state[:written]

    def load(self, state: bytes) -> int:
        """Load a state into the empty memory and return its number of tokens.

        0 if it is not a state.
        """
        if llama.llama_state_seq_set_data(self._ctx, _pointer(state), len(state), 0) != len(state):
            return 0
        return int(llama.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def close(self) -> None:
        """Give the batches' memory back."""
        llama.llama_batch_free(self._batch)
        if self._places:
            llama.llama_batch_free(self._places)


def _pointer(state: bytes) -> Any:
    return ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))


def _parts(tokens: Sequence[int]) -> "list[tuple[int, int]]":
    """Return where runs of words, and positions of one picture, begin and end."""
    begins = [
        at
        for at, token in enumerate(tokens)
        if at == 0
        or ((is_picture(token) or is_picture(tokens[at - 1])) and token != tokens[at - 1] - 1)
    ]
    return list(zip(begins, [*begins[1:], len(tokens)], strict=True))
