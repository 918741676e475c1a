"""The tokens that all prompts of a batch begin with, read once for all of them.

Instructions, documents and the descriptions of tools are the same in every conversation, and often
ten times as long as what follows. A decoder's keys and values of a token depend on the tokens
before it alone, so those of a shared beginning are computed once and serve each row. The rule to
keep: a model whose cache is of another kind (a sliding window, a recurrent state) reads every row
whole.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

MIN_TOKENS = 64
"""Shortest beginning that is read apart: below, a second pass costs more than it saves."""
BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary embeddings whose angles depend on how long the whole text is."""


def shared_tokens(rows: Sequence[Sequence[int]], least: int = MIN_TOKENS) -> int:
    """Return how many tokens all rows begin with; at least one token is left of each row.

    0 where these are fewer than `least`: too few to be worth a pass of their own.
    """
    if len(rows) < 2:
        return 0
    lists = [list(row) for row in rows]
    first, last = min(lists), max(lists)  # what these two share, all rows between them share
    pairs = zip(first, last, strict=False)
    alike = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(last)))
    count = min(alike, min(map(len, rows)) - 1)
    return count if count >= least else 0


def read_prefix(decoder: Any, ids: Tensor, rows: int) -> tuple[Tensor, Any] | None:
    """Return the last hidden states of a beginning [1, length], and its cache for so many rows.

    None for a model whose cache holds other things than the keys and values of every token.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if any(kind in str(getattr(decoder.config, "rope_parameters", "")) for kind in BY_LENGTH):
        return None
    outputs = decoder(input_ids=ids, use_cache=True)
    cache: Any = getattr(outputs, "past_key_values", None)
    if type(cache) is not DynamicCache:
        return None
    if any(type(each) is not DynamicLayer or not each.is_initialized for each in cache.layers):
        return None

    for layer in cache.layers:
        # Views: the gradient of all rows flows into the one beginning.
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return outputs.last_hidden_state, cache
