"""The choice of one token from a row of logits: llama.cpp's samplers, a grammar, log-probabilities.

llama.cpp ends the process when a grammar is told of a token that it does not allow. So each token
is tested against the grammar first, and so is its text: llama.cpp's decoder takes the bytes C0 40
for the character 0, which its test of a token lets through and its grammar does not. An answer
under a grammar is whole UTF-8, whatever the model's tokens are.

A grammar may change a figure: `140` at most 100 becomes 14. Where an answer may call tools and need
not, that is noted, for the call is not what the model would say (ADR 20).
"""

import codecs
import ctypes
import math
from array import array
from collections.abc import Sequence
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.answering import Chosen
from device.engine.base import Sampling
from device.engine.figures import is_changed
from device.engine.llama import objects as opening
from device.engine.waiting import Waiting, quoted
from device.errors import DeviceError

_NEVER = -9999.0
"""Log-probability that OpenAI's API gives for a probability of 0."""
_CALL_END = 64
"""Bytes at the end of a call that are remembered: more than a figure has."""
_WORDS = 3
"""32-bit words of a llama_token_data: id, logit, p."""


class Picker:
    """Chooses the tokens of one answer."""

    def __init__(self, ctx: Any, vocab: Any, sampling: Sampling) -> None:
        self._ctx = ctx
        self._vocab = vocab
        self._sampling = sampling
        self._most = sampling.top_logprobs
        self._size: int = llama.llama_vocab_n_tokens(vocab)
        self._waits = Waiting(sampling.trigger) if sampling.trigger else None
        self._grammar = (
            opening.grammar(vocab, sampling.grammar)
            if sampling.grammar and not self._waits
            else None
        )
        self._chain = opening.sampler(vocab, sampling)
        self._unfinished = b""
        """Bytes of a character of the held answer that is not whole yet."""
        self._call = b""
        """End of the call so far."""
        self._is_silent = False
        """Whether a call was taken back and nothing was said yet, so that some word must come."""
        self.changes_figure = False
        """Whether the grammar of a call changed a figure that the model would have said."""

    @property
    def may_call(self) -> bool:
        """Whether the tokens so far may be the beginning of a call, or are one."""
        return self._waits.opens if self._waits else self._sampling.trigger is not None

    def take_back(self, said: Sequence[int]) -> None:
        """Go on after the tokens that were `said`, in words: no call is begun any more."""
        if self._grammar:
            llama.llama_sampler_free(self._grammar)
            self._grammar = None
        assert self._sampling.trigger
        self._waits = Waiting(self._sampling.trigger, shut=True)
        self._is_silent = not said
        self._call = b""
        self.changes_figure = False
        llama.llama_sampler_reset(self._chain)
        for token in said:
            llama.llama_sampler_accept(self._chain, token)

    def pick(self, row: int = -1) -> Chosen:
        """Return the token that follows a row of the last batch."""
        if self._waits:
            token = self._free(self._waits, row)
        elif self._grammar:
            token = self._held(row)
        else:
            token = llama.llama_sampler_sample(self._chain, self._ctx, row)
        return token, [] if self._most is None else self._likeliest(token, self._most, row)

    def close(self) -> None:
        """Give the samplers' memory back."""
        llama.llama_sampler_free(self._chain)
        if self._grammar:
            llama.llama_sampler_free(self._grammar)

    def _held(self, row: int) -> int:
        """Return the choice among the tokens that the grammar allows."""
        if self._sampling.penalized:
            # The chain counts each token that it samples, so it must not sample a wrong one.
            first = _Scores(self._ctx, row, self._size).chosen(self._chain, set())
        else:
            first = llama.llama_sampler_sample(self._chain, self._ctx, row)

        token = first if self._allows(first) else self._allowed(row)
        if token != first:
            self._note(first, token)
        if self._sampling.penalized:
            llama.llama_sampler_accept(self._chain, token)
        llama.llama_sampler_accept(self._grammar, token)
        self._call = (self._call + self._piece(token))[-_CALL_END:]
        self._unfinished = self._left_after(token) or b""
        return token

    def _note(self, refused: int, taken: int) -> None:
        """Note whether a figure of a call changes with a token in place of a refused one."""
        trigger = self._sampling.trigger
        if trigger and trigger.keeps_figures and not trigger.in_id(self._call):
            pieces = self._piece(refused), self._piece(taken)
            self.changes_figure = self.changes_figure or is_changed(self._call, *pieces)

    def _free(self, waits: Waiting, row: int) -> int:
        """Return the choice among all tokens, but none that begins a call as no call begins."""
        scores = _Scores(self._ctx, row, self._size)
        refused: set[int] = set()
        while True:
            token = scores.chosen(self._chain, refused)
            ends = self._is_silent and llama.llama_vocab_is_eog(self._vocab, token)
            step = None if ends else waits.after(self._piece(token))
            if step is not None:
                break
            refused.add(token)

        self._is_silent = False
        llama.llama_sampler_accept(self._chain, token)
        if waits.accept(step):
            # The rest of the head is the beginning of what the grammar describes.
            text = f"begin ::= {quoted(waits.left)} root\n{self._sampling.grammar}"
            self._grammar = opening.grammar(self._vocab, text, "begin")
            self._waits = None
        return token

    def _piece(self, token: int) -> bytes:
        return opening.piece(self._vocab, token, special=True)

    def _left_after(self, token: int) -> "bytes | None":
        """Return the bytes that wait for the rest of a character after a token; None if there is
        no text that begins so.
        """
        if llama.llama_vocab_is_eog(self._vocab, token):
            return None if self._unfinished else b""
        piece = self._piece(token)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(self._unfinished + piece)
        except UnicodeDecodeError:
            return None
        left: bytes = decoder.getstate()[0]
        # Python refuses half of a surrogate pair (ED A0 to ED BF) at its third byte alone.
        is_surrogate = left[:1] == b"\xed" and left[1:] >= b"\xa0"
        return None if is_surrogate or b"\0" in piece else left

    def _allows(self, token: int) -> bool:
        if self._left_after(token) is None:
            return False
        one = llama.llama_token_data(token, 0.0, 0.0)
        only = llama.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
        llama.llama_sampler_apply(self._grammar, ctypes.byref(only))
        return bool(one.logit == 0.0)

    def _allowed(self, row: int) -> int:
        """Return the choice among the tokens that the grammar allows.

        Raise DeviceError `no_token` if there is none.
        """
        scores = _Scores(self._ctx, row, self._size)
        scores.apply(self._grammar)
        refused: set[int] = set()
        while True:
            token = scores.chosen(self._chain, refused)
            if token in refused or scores.entries[token].logit == -math.inf:
                raise DeviceError(
                    "no_token", "the model has no token that goes on as `response_format` asks"
                )
            if self._left_after(token) is not None:
                return token
            refused.add(token)

    def _likeliest(self, token: int, most: int, row: int) -> list[tuple[int, float]]:
        """Return the log-probabilities of a token and of the likeliest tokens."""
        scores = _Scores(self._ctx, row, self._size)
        scores.apply_once(llama.llama_sampler_init_dist(0))
        own = (token, _log(scores.entries[token].p))
        scores.apply_once(llama.llama_sampler_init_top_k(max(1, most)))
        return [own, *((entry.id, _log(entry.p)) for entry in scores.entries[:most])]


class _Scores:
    """A row of logits in the form that samplers take."""

    def __init__(self, ctx: Any, row: int, size: int) -> None:
        self.entries = (llama.llama_token_data * size)()
        words = memoryview(self.entries).cast("B")
        logits = ctypes.cast(
            llama.llama_get_logits_ith(ctx, row), ctypes.POINTER(ctypes.c_float * size)
        ).contents
        words.cast("i")[0::_WORDS] = memoryview(array("i", range(size)))
        words.cast("f")[1::_WORDS] = memoryview(logits).cast("B").cast("f")
        first = ctypes.cast(self.entries, ctypes.POINTER(llama.llama_token_data))
        self.array = llama.llama_token_data_array(first, size, -1, False)

    def chosen(self, chain: Any, refused: "set[int]") -> int:
        """Return the choice of a chain among all tokens but the refused ones."""
        # The chain sorts the entries and cuts them, so it works on a copy.
        copy = (llama.llama_token_data * len(self.entries))()
        ctypes.memmove(copy, self.entries, ctypes.sizeof(copy))
        for token in refused:
            copy[token].logit = -math.inf
        first = ctypes.cast(copy, ctypes.POINTER(llama.llama_token_data))
        array = llama.llama_token_data_array(first, len(copy), -1, False)
        llama.llama_sampler_apply(chain, ctypes.byref(array))
        return int(copy[array.selected].id)

    def apply(self, sampler: Any) -> None:
        llama.llama_sampler_apply(sampler, ctypes.byref(self.array))

    def apply_once(self, sampler: Any) -> None:
        self.apply(sampler)
        llama.llama_sampler_free(sampler)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else _NEVER
