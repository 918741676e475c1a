"""One answer, whichever engine chooses its tokens: its text, its end and its timing."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from device.engine.base import Candidate, Sampling, Timing, Token
from device.engine.text import TextStream

Chosen = tuple[int, list[tuple[int, float]]]
"""A token, and the log-probabilities of itself and of the likeliest tokens if they are asked for.
"""
Stream = Generator[Chosen, None, None]


@dataclass
class Clock:
    """Steps and seconds of one answer so far."""

    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0

    def ran(self, steps: int, since: float) -> float:
        """Count steps that began at `since` and end now; return their seconds."""
        seconds = time.perf_counter() - since
        self.steps += steps
        self.seconds += seconds
        return seconds


@dataclass(frozen=True)
class Work:
    """The functions that an engine brings for an answer."""

    read: "Callable[[], int | None]"
    """Bring the prompt into memory and return the number of reused tokens; None if it was
    cancelled."""
    chosen: Callable[[Clock], Stream]
    """Yield the tokens of the answer; each is evaluated when the next one is asked for."""
    ends: Callable[[int], bool]
    """Say whether a token ends the answer."""
    piece: Callable[[int], bytes]


def answer(
    prompt: Sequence[int], sampling: Sampling, work: Work, cancelled: Callable[[], bool]
) -> Iterator[Token]:
    """Yield the steps of an answer; nothing more after it was cancelled."""
    began = time.perf_counter()
    clock = Clock()
    text = TextStream(sampling.stop)
    reason: Literal["stop", "length"] = "length"
    reused = work.read()
    if reused is None:
        return

    prefill_s = time.perf_counter() - began
    with closing(work.chosen(clock)) as chosen:
        for token, likely in chosen:
            if work.ends(token):
                reason = "stop"
                break

            clock.tokens += 1
            candidates = tuple(Candidate(work.piece(each), logprob) for each, logprob in likely)
            yield Token(token, text.feed(work.piece(token)), candidates=candidates)
            if text.stopped:
                reason = "stop"
                break

    timing = Timing(len(prompt), reused, prefill_s, clock.tokens, clock.steps, clock.seconds)
    if not cancelled():
        yield Token(None, text.end(), reason, timing)
