"""The prompt as the beginning of its answer (`echo`), with the probability of each of its tokens.

Test harnesses such as lm-eval measure with it how likely a model takes a given text. Standard
library only.
"""

import heapq
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from device.engine.base import Candidate, Engine, Token
from device.engine.text import TextStream

_FAR = 60.0
"""Difference of two logits from which on the smaller one does not count."""


@dataclass(frozen=True)
class Echoed:
    """A prompt that stands before its answer."""

    tokens: Sequence[int]
    given: "str | tuple[int, ...]"
    """The prompt as its client sent it."""
    most: "int | None"
    """Number of likeliest tokens that come with each token; None for no probabilities."""


def with_echo(
    engine: Engine, prompt: Echoed, answer: Iterator[Token], gone: Callable[[], bool]
) -> Iterator[Token]:
    """Yield the steps of a prompt as if they were the answer's, and then those of its answer.

    Nothing precedes the first token, so it has no probability. An answer without a token has the
    probability of its end in the place of one: lm-eval leaves the last probability out.
    """
    texts = _texts(engine, prompt)
    if prompt.most is None:
        yield Token(None, "".join(texts))
        yield from answer
        return

    row: "bytes | None" = None
    rows = engine.logits(prompt.tokens)
    for token, text in zip(prompt.tokens, texts, strict=True):
        if gone():
            return
        yield Token(token, text, candidates=_candidates(engine, token, row, prompt.most))
        row = next(rows)

    assert row, "a prompt has tokens"
    scores = array("f", row)
    ending = scores.index(max(scores))
    for number, step in enumerate(answer):
        if step.finish_reason and not number:
            step = replace(step, candidates=_candidates(engine, ending, row, prompt.most))
        yield step


def _candidates(
    engine: Engine, token: int, row: "bytes | None", most: int
) -> tuple[Candidate, ...]:
    """Return a token and the likeliest ones at its place; `row` is the scores of all."""
    piece = engine.piece(token)
    if row is None:
        return (Candidate(piece, None),)

    scores = array("f", row)
    greatest = max(scores)
    # Others add less than a double tells apart.
    total = math.log(sum(math.exp(each - greatest) for each in scores if greatest - each < _FAR))
    likeliest = heapq.nlargest(most, range(len(scores)), key=scores.__getitem__)
    return tuple(
        Candidate(engine.piece(each), scores[each] - greatest - total)
        for each in (token, *likeliest)
    )


def _texts(engine: Engine, prompt: Echoed) -> list[str]:
    """Return the text that each token of a prompt completes."""
    stream = TextStream(())
    texts = [stream.feed(engine.piece(token)) for token in prompt.tokens]
    texts[-1] += stream.end()
    if isinstance(prompt.given, str) and "".join(texts) != prompt.given:
        # Tokens that have no text of their own, or a tokenizer that changes texts.
        return [prompt.given, *("" for _ in texts[1:])]
    return texts
