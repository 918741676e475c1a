"""The one sequence in llama.cpp's memory: read on, cut off at the end, put away as a whole and taken back."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine import opening
from device.engine.base import never, shelf_bytes
from device.engine.states import BATCH, Memory, Shelf, of_lead
from device.errors import DeviceError

_ABORTED = 2
_LEAST_PUT_AWAY = 32
"""Tokens beyond its lead for which a conversation is put away: fewer are read again as fast."""


class LlamaSequence:
    """What a context has read, and the shelf of what it has read before."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._memory = llama.llama_get_memory(ctx)
        self._batch = opening.batch(llama.llama_n_batch(ctx))
        self._shelf = Shelf(shelf_bytes())
        self.live = Memory()
        """What is in llama.cpp's memory."""

    def __len__(self) -> int:
        """Return the tokens in memory."""
        return len(self.live.tokens)

    def decode(self, tokens: Sequence[int], *, every_row: bool = False) -> bool:
        """Evaluate at most a batch of tokens after those in memory; return False where it was cancelled."""
        batch, start, last = self._batch, len(self), len(tokens) - 1
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row], batch.logits[row] = token, start + row, every_row or row == last
        code = llama.llama_decode(self._ctx, batch)
        if code == 0:
            self.live.tokens.extend(tokens)
            return True
        self.clear()
        if code == _ABORTED:
            return False
        raise DeviceError("engine_failed", f"the engine gave up after {start} tokens (code {code}){opening.because()}")

    def read(self, tokens: Sequence[int], lead: int = 0, cancelled: Callable[[], bool] = never) -> "int | None":
        """Have a prompt in memory, its lead read apart; return how many tokens were there, None where it was cancelled."""
        ask = llama.ggml_abort_callback(lambda _: cancelled())
        llama.llama_set_abort_callback(self._ctx, ask, None)
        try:
            reused = self._take_up(tokens, lead)
            whole = (not lead or self._read_lead(tokens[:lead])) and self._read_on(tokens)
        finally:
            llama.llama_set_abort_callback(self._ctx, llama.ggml_abort_callback(), None)
        self.live.asked = len(self)
        return reused if whole else None

    def saved(self, lead: Sequence[int]) -> bytes:
        """Return the state after these tokens alone, read first where it is not on the shelf."""
        if not self._shelf.state_of(lead):
            self._take_up([*lead, lead[-1]], len(lead))
            self._read_lead(lead)
        return self._shelf.state_of(lead)

    def restore(self, lead: Sequence[int], state: bytes) -> bool:
        """Take a state back for good; say whether it holds as many tokens as it should."""
        if not self._load(of_lead(lead), state):
            return False
        self._shelf.put(of_lead(lead), state, pinned=True)
        return True

    def cut_to(self, length: int) -> bool:
        """Forget what comes after so many tokens; return False where llama.cpp cannot, and then there is nothing in memory."""
        if length == len(self) or llama.llama_memory_seq_rm(self._memory, 0, length, -1):
            self.live.cut_to(length)
            return True
        self.clear()
        return False

    def clear(self) -> None:
        """Empty the memory."""
        llama.llama_memory_clear(self._memory, False)
        self.live = Memory()

    def forget(self) -> None:
        """Empty memory and shelf."""
        self.clear()
        self._shelf.clear()

    def close(self) -> None:
        """Give the batch's memory back."""
        llama.llama_batch_free(self._batch)

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
        size = llama.llama_state_seq_get_size(self._ctx, 0)
        if size > self._shelf.limit_bytes:
            return
        state = (ctypes.c_uint8 * size)()
        size = llama.llama_state_seq_get_data(self._ctx, state, size, 0)
        self._shelf.put(self.live.copy(), bytes(memoryview(state)[:size]))

    def _load(self, memory: Memory, state: bytes) -> bool:
        """Have a state in memory instead of what is there; a state that is not what it should be leaves nothing and is dropped."""
        self.clear()
        source = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
        taken = llama.llama_state_seq_set_data(self._ctx, source, len(state), 0)
        held = llama.llama_memory_seq_pos_max(self._memory, 0) + 1
        if taken == len(state) and held == len(memory.tokens):
            self.live = memory.copy()
            return True
        self.clear()
        self._shelf.drop(memory)
        return False
