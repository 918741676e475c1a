"""An answer that is a passage as it stands, in the steps of an answer that a model gives.

It follows the request's limits: its length in tokens, and the texts that end it.
"""

import time
from collections.abc import Iterator

from device.engine.base import Engine, Sampling, Timing, Token
from device.engine.text import TextStream


def quoted(engine: Engine, text: str, sampling: Sampling, prompt_tokens: int) -> Iterator[Token]:
    """Yield the steps of a quoted answer; the last one has the reason of the end."""
    began = time.perf_counter()
    tokens = engine.tokenize(text)
    stream = TextStream(sampling.stop)
    given = 0
    for token in tokens[: sampling.max_tokens]:
        shown = stream.feed(engine.piece(token))
        given += 1
        yield Token(token, shown)
        if stream.stopped:
            break

    whole = stream.stopped or given == len(tokens)
    timing = Timing(
        prompt_tokens=prompt_tokens,
        reused_tokens=prompt_tokens,
        prefill_s=time.perf_counter() - began,
        answer_tokens=given,
        decode_steps=0,
        decode_s=0.0,
    )
    yield Token(None, stream.end(), "stop" if whole else "length", timing)
