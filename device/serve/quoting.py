"""An answer that is a passage as it stands, in the steps of an answer that a model gives.

It follows the request's limits: its length in tokens, and the texts that end it. What a bundle
allows a model by default is no limit: a passage ends by itself.
"""

import time
from collections.abc import Iterator, Sequence

from device.engine.base import Engine, Timing, Token
from device.engine.text import TextStream

_CHARACTERS = 4
"""Characters in a piece of a text that no tokens give back: about those of a token."""


def quoted(
    engine: Engine, text: str, stop: Sequence[str], limit: "int | None", prompt_tokens: int
) -> Iterator[Token]:
    """Yield the steps of a quoted answer; the last one has the reason of the end.

    `limit` is its most tokens; None for no limit.
    """
    began = time.perf_counter()
    pieces = _pieces(engine, text)
    stream = TextStream(stop)
    given = 0
    for token, piece in pieces[:limit]:
        shown = stream.feed(piece)
        given += 1
        yield Token(token, shown)
        if stream.stopped:
            break

    whole = stream.stopped or given == len(pieces)
    timing = Timing(
        prompt_tokens=prompt_tokens,
        reused_tokens=prompt_tokens,
        prefill_s=time.perf_counter() - began,
        answer_tokens=given,
        decode_steps=0,
        decode_s=0.0,
    )
    yield Token(None, stream.end(), "stop" if whole else "length", timing)


def _pieces(engine: Engine, text: str) -> "list[tuple[int, bytes]]":
    """Return the tokens of a text with their bytes, which together are the text."""
    raw = text.encode("utf-8", "replace")
    tokens = engine.tokenize(text)
    pieces = [engine.piece(token) for token in tokens]
    if tokens and b"".join(pieces) == b" " + raw:
        pieces[0] = pieces[0][1:]  # SentencePiece writes a space before the first word
    if b"".join(pieces) != raw:
        # A control token in the text, which has no bytes, or a tokenizer that changes texts.
        parts = [text[at : at + _CHARACTERS] for at in range(0, len(text), _CHARACTERS)]
        return [(0, part.encode("utf-8", "replace")) for part in parts]
    return list(zip(tokens, pieces, strict=True))
