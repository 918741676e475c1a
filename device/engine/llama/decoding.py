"""llama.cpp's answer, token by token: in single steps, or several at once where a guess is good.

Several at once must not change the answer. Whether a batch computes the very bits that single steps do depends on the kernels, the
number of threads and the length of the context (from 512 places on, attention of a single token is split among the threads). So it
is proved on the spot, once for each size of batch, and where the proof fails there are single steps.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.answering import Chosen, Clock, Stream
from device.engine.base import Sampling
from device.engine.drafts import SIZES, Lookup, Pace
from device.engine.llama.picking import Picker
from device.engine.sequence import ReadSequence
from device.errors import DeviceError

_UNSPLIT = 256
"""Tokens in memory up to which attention goes one way; llama.cpp rounds more up to 512 places (ggml-cpu ops.cpp, split_kv)."""


class LlamaDecoder:
    """Goes on with what a sequence holds; remembers from answer to answer what guesses bring."""

    def __init__(self, model: Any, ctx: Any, sequence: ReadSequence, *, guess: bool) -> None:
        self._ctx, self._sequence = ctx, sequence
        self._vocab = llama.llama_model_get_vocab(model)
        self._row_bytes = llama.llama_vocab_n_tokens(self._vocab) * 4
        takes_back = not (
            llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        )
        self._guesses = guess and takes_back
        self._pace = Pace()
        self.exact: dict[tuple[int, bool], bool] = {}
        """Tokens at once, and whether the context is long → whether they gave the bits of single steps."""

    def chosen(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        """Yield at most `room` tokens after a prompt that was read; each is evaluated when the next is asked for."""
        picker = Picker(self._ctx, self._vocab, sampling)
        try:
            first = picker.pick()
            yield first
            greedy = (
                sampling.temperature == 0 and not sampling.grammar and sampling.top_logprobs is None
            )
            if greedy and self._guesses:
                yield from self._guessing(picker, [*prompt, first[0]], room - 1, clock, cancelled)
            else:
                yield from self._stepping(picker, first[0], room - 1, clock, cancelled)
        finally:
            picker.close()

    def _stepping(
        self, picker: Picker, token: int, room: int, clock: Clock, cancelled: Callable[[], bool]
    ) -> Stream:
        while room and not cancelled():
            chosen = self._step(picker, token, clock)
            yield chosen
            token, room = chosen[0], room - 1

    def _step(self, picker: Picker, token: int, clock: Clock) -> Chosen:
        began = time.perf_counter()
        self._sequence.decode([token])
        chosen = picker.pick()
        self._pace.stepped(clock.ran(1, began))
        return chosen

    def _guessing(
        self,
        picker: Picker,
        text: list[int],
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        lookup, last = Lookup(text), text[-1]
        self._pace.begin()
        while room and not cancelled():
            guess = lookup.guess(min(SIZES[-1], room) - 1)
            size = self._size(len(guess))
            batch = [last, *guess[: size - 1]]
            tokens = (
                self._batch(picker, batch, clock)
                if size > 1
                else [self._step(picker, last, clock)[0]]
            )
            for right, token in zip(guess, tokens, strict=False):
                self._pace.saw(right=right == token)
            yield from self._handed_out(tokens)
            for token in tokens:
                lookup.add(token)
            last, room = tokens[-1], room - len(tokens)

    def _handed_out(self, tokens: list[int]) -> Stream:
        """Yield tokens; where no more are wanted the rest is taken out of memory again."""
        end, wanted = len(self._sequence), 0
        try:
            for wanted, token in enumerate(tokens, 1):  # noqa: B007
                yield token, []
        finally:
            self._take_back(end - len(tokens) + wanted)

    def _take_back(self, length: int) -> None:
        if not self._sequence.cut_to(length):
            raise DeviceError(
                "engine_failed", "the engine cannot take back the tokens that were guessed wrong"
            )

    def _size(self, guessed: int) -> int:
        """Return how many tokens to evaluate at once."""
        size = self._pace.size(guessed) if guessed else 1
        return size if self.exact.get(self._way(size), self._pace.sure) else 1

    def _way(self, size: int) -> tuple[int, bool]:
        return size, len(self._sequence) + size > _UNSPLIT

    def _batch(self, picker: Picker, tokens: list[int], clock: Clock) -> list[int]:
        """Evaluate a token and guesses after it at once; return what follows them, up to the first that was guessed wrong."""
        if self._way(len(tokens)) not in self.exact:
            return self._proving(picker, tokens, clock)
        began, base = time.perf_counter(), len(self._sequence)
        self._sequence.decode(tokens, every_row=True)
        follow = self._follow(picker, tokens)
        self._take_back(base + len(follow))
        self._pace.tried(len(tokens), len(follow), clock.ran(len(follow), began))
        return follow

    def _follow(self, picker: Picker, tokens: list[int]) -> list[int]:
        """Return what follows each token of a batch, as long as it is the next."""
        follow = []
        for row, right in enumerate([*tokens[1:], None]):
            follow.append(picker.pick(row)[0])
            if follow[-1] != right:
                break
        return follow

    def _proving(self, picker: Picker, tokens: list[int], clock: Clock) -> list[int]:
        """Evaluate a batch, and then its tokens again in single steps, which count; note whether the bits were the same."""
        began, base, way = time.perf_counter(), len(self._sequence), self._way(len(tokens))
        self._sequence.decode(tokens, every_row=True)
        follow = self._follow(picker, tokens)
        together = [self._row(row) for row in range(len(follow))]
        self._take_back(base)
        tried_s = time.perf_counter() - began
        said: list[int] = []
        same = True
        while len(said) < len(follow) and said == follow[: len(said)]:
            self._sequence.decode([tokens[len(said)]])
            same = same and self._row(-1) == together[len(said)]
            said.append(picker.pick()[0])
        clock.ran(len(said), began)
        if len(said) > 1 or not same:
            self.exact[way] = same
        else:  # nothing was proved, so it will be tried again: that must not be free
            self._pace.tried(len(tokens), 0, tried_s)
        return said

    def _row(self, row: int) -> bytes:
        return ctypes.string_at(llama.llama_get_logits_ith(self._ctx, row), self._row_bytes)
