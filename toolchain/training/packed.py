"""Conversations read as one row, without padding; what they all begin with is read once.

A row is the shared beginning, then what each conversation has of its own. Each token has the
position that it has in its own conversation, and attends to the beginning and to its own
conversation alone (block-diagonal attention). Linear layers, norms and the loss so see no padding.
The rule to keep: `packs` decides by a comparison with the plain way, so a family whose layers do
more than causal attention is read row by row as before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from toolchain.training.shared import BY_LENGTH, MIN_TOKENS, shared_tokens

NAME = "demitasse_packed"
"""Name of the attention in transformers."""
SHORT = 160
"""Longest rows, in tokens, whose scores stand in memory on a CPU."""
# Processor milliseconds, forward and backward, of 4 rows of 64 / 128 / 256 tokens, 9 heads of 64
# in bf16 (x86-64 with AVX512-BF16): torch's flash attention 5.5 / 12.8 / 26.6, plain scores 1.5 /
# 4.3 / 16.6. Scores take memory that grows with the square of the length.
SHAPES, ROW_SHAPES = 8, 4
"""Lengths from one power of two to the next: what is packed is filled up to one of them, the packed
row itself to fewer."""
# oneDNN keeps machine code for each shape that it has multiplied: 13 MB for each length of a packed
# row, with the widths of SmolLM2-135M. With a shape for each batch a training grew by 13 MB a step
# for ever. Four lengths cost up to a quarter more tokens, on average a twelfth.
LARGE = 300_000_000
"""Weights of a decoder from which on a packed row has SHAPES lengths as well."""
# A length takes 15 MB with the widths of Qwen2.5-0.5B too: 0.7 % of what its training takes.
_FARTHEST, _FARTHEST_16 = 1e-4, 0.05
"""Largest relative distance of both ways' states, in float32 and in 16 bits."""
_PROBE = ((5, 6, 7, 8, 9), (5, 6, 7, 9, 8, 7, 6, 5), (5, 6, 7, 10))
"""Rows with a shared beginning on which both ways are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Where the tokens of some rows stand in one packed row."""

    beginning: int
    """Tokens that all rows share, at the front."""
    places: Tensor
    """[rows, longest]: place of each row's own tokens in the packed row; 0 where it has none."""
    own: Tensor
    """[tokens]: where each own token stands in the flattened [rows, longest]; 0 for filler."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of the tokens that the longest has of its own."""
        return self.places.shape[0], self.places.shape[1]

    def of_rows(self, states: Tensor) -> Tensor:
        """Return [rows, longest, …] of packed states [tokens, …], without the beginning."""
        picked = states.index_select(0, self.places.flatten())
        return picked.view(*self.shape, *states.shape[1:])

    def unpacked(self, states: Tensor) -> Tensor:
        """Return [rows, beginning + longest, width] of packed states [tokens, width]."""
        own = self.of_rows(states)
        if not self.beginning:
            return own
        first = states[: self.beginning].expand(len(own), -1, -1)
        return torch.cat([first, own], dim=1)


def pack(
    ids: Tensor, lengths: Sequence[int], least: int = MIN_TOKENS, shapes: int = ROW_SHAPES
) -> tuple[Tensor, Tensor, Packing]:
    """Return ids [1, tokens], positions [1, tokens] and the packing of rows [rows, longest].

    A beginning is shared from `least` tokens on. Both lengths are filled up to one of a few, that
    of the packed row to one of `shapes`, so `longest` may be more than that of `ids`; nobody reads
    what stands in the filler.
    """
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    beginning = shared_tokens(rows, least)
    packed, positions = rows[0][:beginning], list(range(beginning))
    longest = filled(max(map(len, rows)) - beginning)
    places = torch.zeros((len(rows), longest), dtype=torch.long)
    own: list[int] = []
    for number, row in enumerate(rows):
        count = len(row) - beginning
        places[number, :count] = torch.arange(len(packed), len(packed) + count)
        own += range(number * longest, number * longest + count)
        packed += row[beginning:]
        positions += range(beginning, len(row))

    filler = [0] * (filled(len(packed), shapes) - len(packed))
    packed, positions, own = packed + filler, positions + filler, own + filler

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor([values], device=ids.device)

    packing = Packing(beginning=beginning, places=places.to(ids.device), own=tensor(own)[0])
    return tensor(packed), tensor(positions), packing


def filled(length: int, shapes: int = SHAPES) -> int:
    """Return the length that so many tokens are filled up to, at most a share of 1/shapes more."""
    step = max(1, (1 << max(length - 1, 0).bit_length() >> 1) // shapes)
    return -(-length // step) * step


def read_packed(
    decoder: Any, ids: Tensor, lengths: Sequence[int], least: int = MIN_TOKENS
) -> Tensor:
    """Return the last hidden states [rows, longest, width] of rows, read as one."""
    weights = sum(each.numel() for each in decoder.parameters())
    shapes = SHAPES if weights >= LARGE else ROW_SHAPES
    packed, positions, packing = pack(ids, lengths, least, shapes)
    states = decoder(
        input_ids=packed, position_ids=positions, use_cache=False, packing=packing
    ).last_hidden_state
    return packing.unpacked(states[0])[:, : ids.shape[1]]


@contextmanager
def packs(model: Any) -> Iterator[bool]:
    """Let a model read packed rows, if it reads them as it reads plain ones; yield whether so."""
    own = model.config._attn_implementation
    if not _may_pack(model.config):
        yield False
        return
    is_equal = _is_equal(model, own)
    if is_equal:
        _use(model, NAME)
    try:
        yield is_equal
    finally:
        _use(model, own)


def is_packing(model: Any) -> bool:
    """Return whether a model reads packed rows now."""
    return bool(model.config._attn_implementation == NAME)


def _may_pack(whole: Any) -> bool:
    """Return whether all layers are of full attention with positions that stand for themselves.

    A vision tower, which the probe does not reach, looks in both directions.
    """
    config = whole.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    has_window = window and getattr(config, "use_sliding_window", True)
    capped = getattr(config, "attn_logit_softcapping", None)
    by_length = any(kind in str(getattr(config, "rope_parameters", "")) for kind in BY_LENGTH)
    is_causal = kinds == {"full_attention"} and not hasattr(whole, "vision_config")
    return is_causal and not (has_window or capped or by_length)


def _is_equal(model: Any, own: str) -> bool:
    """Return whether a probe gives the same states packed and plain."""
    decoder, device = model.base_model, model.device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            plain = [
                decoder(
                    input_ids=torch.tensor([row], device=device), use_cache=False
                ).last_hidden_state[0]
                for row in _PROBE
            ]
            _use(model, NAME)
            width = max(map(len, _PROBE))
            ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in _PROBE])
            lengths = [len(row) for row in _PROBE]
            packed = read_packed(decoder, ids.to(device), lengths, least=1)
    except (TypeError, ValueError, AttributeError, RuntimeError):
        # A family that takes no such argument, or whose attention is none of transformers' own.
        return False
    finally:
        _use(model, own)
        model.train(was_training)
    farthest = _FARTHEST if packed.dtype == torch.float32 else _FARTHEST_16
    return all(
        float((packed[number, : len(row)] - states).norm()) <= farthest * float(states.norm())
        for number, (row, states) in enumerate(zip(_PROBE, plain, strict=True))
    )


def _use(model: Any, name: str) -> None:
    """Switch the attention of a model; a peft model's own lies below it."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return the attention [1, tokens, heads, width] of packed rows; without a packing of rows.

    Shapes: query [1, heads, tokens, width]; key and value [1, fewer heads, tokens, width].
    """
    with torch.autocast(query.device.type, enabled=False):
        # Rotary angles are float32, so under autocast the value alone has the type of the rest.
        query, key = query.to(value.dtype), key.to(value.dtype)
        if packing is None:
            cached = key.shape[2] - query.shape[2]
            return _attend(query, key, value, cached, scaling, dropout).transpose(1, 2), None

        count = packing.beginning
        rows, longest = packing.shape
        parts = [each[0].transpose(0, 1) for each in (query, key, value)]
        queries, keys, values = (packing.of_rows(part).transpose(1, 2) for part in parts)
        if count:
            keys, values = (
                torch.cat([each[:, :, :count].expand(rows, -1, -1, -1), own], dim=2)
                for each, own in ((key, keys), (value, values))
            )
        own = _attend(queries, keys, values, count, scaling, dropout).transpose(1, 2)
        own = own.reshape(rows * longest, *own.shape[2:]).index_select(0, packing.own)
        if not count:
            return own[None], None
        first = _attend(
            query[:, :, :count], key[:, :, :count], value[:, :, :count], 0, scaling, dropout
        )
        return torch.cat([first[0].transpose(0, 1), own])[None], None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, before: int, scaling: float, dropout: float
) -> Tensor:
    """Return causal attention [rows, heads, length, width]; `before` keys are seen by all."""
    length, longest = query.shape[2], key.shape[2]
    if longest <= SHORT and query.device.type == "cpu":
        return _scored(query, key, value, before, scaling, dropout)
    seen = None
    if before:
        seen = torch.ones((length, longest), dtype=torch.bool, device=query.device).tril(before)
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=seen,
        dropout_p=dropout,
        is_causal=seen is None,
        scale=scaling,
        enable_gqa=grouped,
    )


def _scored(
    query: Tensor, key: Tensor, value: Tensor, before: int, scaling: float, dropout: float
) -> Tensor:
    """Return the attention with scores [rows, key heads, group · length, keys] in memory."""
    rows, heads, length, width = query.shape
    kept, longest = key.shape[1], key.shape[2]
    grouped = query.reshape(rows, kept, heads // kept * length, width)
    scores = (grouped * scaling) @ key.transpose(-1, -2)
    hidden = torch.ones((length, longest), dtype=torch.bool, device=query.device).triu(before + 1)
    scores = scores.view(rows, kept, heads // kept, length, longest)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    if dropout:
        weights = functional.dropout(weights, dropout)
    found = weights.view(rows, kept, heads // kept * length, longest) @ value
    return found.view(rows, heads, length, width)
