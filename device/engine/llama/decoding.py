"""llama.cpp's answer: token by token, or several tokens at once while drafts are good.

Several at once must not change the answer. Whether a batch computes the very bits that single steps
do depends on the kernels, the number of threads and the length of the context (from 512 positions
on, attention of a single token is split among the threads). So it is proved at run time, once for
each size of batch. If the proof fails, the decoder takes single steps.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.answering import Chosen, Clock, Stream
from device.engine.base import Sampling
from device.engine.drafts import SIZES, DraftBudget, Lookup
from device.engine.llama.picking import Picker
from device.engine.sequence import ReadSequence
from device.errors import DeviceError

_UNSPLIT = 256
"""Tokens in memory up to which attention is not split among the threads."""
# llama.cpp rounds more up to 512 positions (ggml-cpu ops.cpp, split_kv).


class LlamaDecoder:
    """Continues the sequence in memory; learns from answer to answer what drafts gain."""

    def __init__(self, model: Any, ctx: Any, sequence: ReadSequence, *, speculative: bool) -> None:
        self._ctx = ctx
        self._sequence = sequence
        self._vocab = llama.llama_model_get_vocab(model)
        self._row_bytes = llama.llama_vocab_n_tokens(self._vocab) * 4
        self._forgets = not (
            llama.llama_model_is_recurrent(model) or llama.llama_model_is_hybrid(model)
        )
        self._speculates = speculative and self._forgets
        self._budget = DraftBudget()
        self.exact: dict[tuple[int, bool], bool] = {}
        """(tokens at once, whether the context is long) → whether a batch gave the bits of single
        steps."""

    def chosen(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        """Yield at most `room` tokens after a prompt that was read.

        Each token is evaluated when the next one is asked for.
        """
        picker = Picker(self._ctx, self._vocab, sampling)
        try:
            first = picker.pick()
            greedy = (
                sampling.temperature == 0
                and not sampling.grammar
                and not sampling.penalized
                and sampling.top_logprobs is None
            )
            if sampling.trigger and sampling.trigger.keeps_figures and self._forgets:
                yield from self._calling(picker, first, room, clock, cancelled)
                return
            yield first
            if greedy and self._speculates:
                yield from self._drafting(picker, [*prompt, first[0]], room - 1, clock, cancelled)
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
            token = chosen[0]
            room -= 1

    def _calling(
        self,
        picker: Picker,
        first: Chosen,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        """Yield an answer that may call tools: what may be a call is held until it is over.

        A call with a figure that the grammar would change is taken back, and the answer goes on in
        words from the row of logits before it.
        """
        said: list[int] = []
        held = [first]
        row = self._row(-1)
        while True:
            last = held[-1][0]
            over = llama.llama_vocab_is_eog(self._vocab, last)
            if picker.changes_figure:
                # The token before the call is not evaluated again: alone it may give other bits.
                self._take_back(len(self._sequence) - len(held) + 1)
                self._set_row(row)
                picker.take_back(said)
                held = [picker.pick()]
                continue
            is_over = over or len(said) + len(held) >= room or cancelled()
            if is_over or not picker.may_call:
                yield from self._handed_out(held)
                said += (token for token, _ in held)
                held = []
            if is_over:
                return
            held.append(self._step(picker, last, clock))
            if len(held) == 1 and picker.may_call:
                row = self._row(-1)

    def _step(self, picker: Picker, token: int, clock: Clock) -> Chosen:
        began = time.perf_counter()
        self._sequence.decode([token])
        chosen = picker.pick()
        self._budget.stepped(clock.ran(1, began))
        return chosen

    def _drafting(
        self,
        picker: Picker,
        text: list[int],
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        lookup = Lookup(text)
        last = text[-1]
        self._budget.begin()
        while room and not cancelled():
            # A place of a picture is read in a prompt, and never said.
            draft = list(takewhile(_is_word, lookup.draft(min(SIZES[-1], room) - 1)))
            size = self._size(len(draft))
            batch = [last, *draft[: size - 1]]
            tokens = (
                self._batch(picker, batch, clock)
                if size > 1
                else [self._step(picker, last, clock)[0]]
            )
            for right, token in zip(draft, tokens, strict=False):
                self._budget.saw(right=right == token)

            yield from self._handed_out([(token, []) for token in tokens])
            for token in tokens:
                lookup.add(token)

            last = tokens[-1]
            room -= len(tokens)

    def _handed_out(self, tokens: Sequence[Chosen]) -> Stream:
        """Yield tokens; take those that the reader does not want out of memory again."""
        end = len(self._sequence)
        taken = 0
        try:
            for taken, chosen in enumerate(tokens, 1):  # noqa: B007
                yield chosen
        finally:
            self._take_back(end - len(tokens) + taken)

    def _take_back(self, length: int) -> None:
        if not self._sequence.cut_to(length):
            raise DeviceError(
                "engine_failed", "the engine cannot take back the tokens that were drafted wrong"
            )

    def _size(self, drafted: int) -> int:
        """Return how many tokens to evaluate at once."""
        size = self._budget.size(drafted) if drafted else 1
        return size if self.exact.get(self._way(size), self._budget.sure) else 1

    def _way(self, size: int) -> tuple[int, bool]:
        return size, len(self._sequence) + size > _UNSPLIT

    def _batch(self, picker: Picker, tokens: list[int], clock: Clock) -> list[int]:
        """Evaluate a token and its draft at once.

        Return the tokens that follow, up to the first that differs from the draft.
        """
        if self._way(len(tokens)) not in self.exact:
            return self._proving(picker, tokens, clock)

        began = time.perf_counter()
        base = len(self._sequence)
        self._sequence.decode(tokens, every_row=True)
        follow = self._follow(picker, tokens)
        self._take_back(base + len(follow))
        self._budget.tried(len(tokens), len(follow), clock.ran(len(follow), began))

        return follow

    def _follow(self, picker: Picker, tokens: list[int]) -> list[int]:
        """Return the token after each row of a batch, up to the first that differs from it."""
        follow = []
        for row, right in enumerate([*tokens[1:], None]):
            follow.append(picker.pick(row)[0])
            if follow[-1] != right:
                break

        return follow

    def _proving(self, picker: Picker, tokens: list[int], clock: Clock) -> list[int]:
        """Evaluate a batch, then its tokens again in single steps, whose results count.

        Note whether the bits were the same.
        """
        began = time.perf_counter()
        base = len(self._sequence)
        way = self._way(len(tokens))
        self._sequence.decode(tokens, every_row=True)
        follow = self._follow(picker, tokens)
        together = [self._row(row) for row in range(len(follow))]
        self._take_back(base)
        tried_s = time.perf_counter() - began
        alone: list[int] = []
        same = True

        while len(alone) < len(follow) and alone == follow[: len(alone)]:
            self._sequence.decode([tokens[len(alone)]])
            same = same and self._row(-1) == together[len(alone)]
            alone.append(picker.pick()[0])

        clock.ran(len(alone), began)
        if len(alone) > 1 or not same:
            self.exact[way] = same
        else:  # nothing was proved, so it will be tried again: that must not be free
            self._budget.tried(len(tokens), 0, tried_s)

        return alone

    def _set_row(self, row: bytes) -> None:
        """Make a row of logits the last one again."""
        ctypes.memmove(llama.llama_get_logits_ith(self._ctx, -1), row, self._row_bytes)

    def _row(self, row: int) -> bytes:
        return ctypes.string_at(llama.llama_get_logits_ith(self._ctx, row), self._row_bytes)


def _is_word(token: int) -> bool:
    return token >= 0
