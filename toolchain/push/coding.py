"""The difference between two runs of blocks, as the payload of an ADD frame.

The format is in device/manifest/delta.py. A payload is runs of zeros with the symbol that ends
each, Huffman-coded by deflate.
"""
# An update's difference comes down to its order-0 entropy, and this is within 5 % of it.
# Measured on Q4_0 at 1 % changes, as a share of the tensor's bytes: this 0.100, entropy 0.096,
# XOR with zstd -3 0.189.

import zlib
from typing import TYPE_CHECKING

import numpy as np

from device.manifest import delta

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Counts = NDArray[np.int64]

SPARSE, DENSE = 0.2, 0.4
"""Shares of non-zero values between which both codings are tried."""
# Below SPARSE, tokens are always smaller; above DENSE, never.
COVERED, MAX_COMMON, MAX_RARE = 0.97, 16, 120
"""Limits of the symbols that get words with runs: share of all that they cover, their number, and
the number of other symbols.
"""
# With more than MAX_RARE other symbols the words are not worth it.
_DIGITS = 4
_FOUR, _NIBBLE = np.uint8(4), np.uint8(15)


def difference(old: "Bytes", new: "Bytes", kind: int) -> bytes:
    """Return the payload that turns `old` into `new`: whole blocks of one tensor type."""
    block = delta.block_bytes(kind)
    before = old.reshape(-1, block)
    after = new.reshape(-1, block)
    place = 0
    sections = []

    for width, lane in delta.fields(kind):
        one, other = before[:, place : place + width], after[:, place : place + width]
        if lane > 8:
            sections += [_section(plane) for plane in _number_planes(one, other, width)]
        elif lane == 8:
            sections.append(_section(_planes(other - one)))
        else:
            low = _planes(other - one & _NIBBLE)
            high = _planes((other >> _FOUR) - (one >> _FOUR) & _NIBBLE)
            sections.append(_section(np.concatenate([low, high]), plain=low | high << _FOUR))
        place += width

    return b"".join(sections)


def packed(raw: bytes) -> bytes:
    """Return bytes deflated, for a PACKED frame."""
    return _deflate(raw, zlib.Z_DEFAULT_STRATEGY)


def _planes(values: "Bytes") -> "Bytes":
    return np.ascontiguousarray(values.T).ravel()


def _number_planes(one: "Bytes", other: "Bytes", width: int) -> "list[Bytes]":
    """Return the bytes of numbers' differences, lowest first, less the sign of the one below."""
    number = np.dtype(f"<u{width}")
    wrapped = np.ascontiguousarray(other).view(number) - np.ascontiguousarray(one).view(number)
    planes = np.ascontiguousarray(wrapped.view(np.uint8).reshape(-1, width).T)
    return [planes[0], *(planes[byte] + (planes[byte - 1] >> 7) for byte in range(1, width))]


def _section(values: "Bytes", plain: "Bytes | None" = None) -> bytes:
    """Return a field in its smaller form; `plain` are the bytes of `values` (nibbles)."""
    filled = np.count_nonzero(values) / max(values.size, 1)
    spelled = _tokens(values) if filled < DENSE else None
    if spelled is not None and filled < SPARSE:
        return spelled
    deflated = _deflate((values if plain is None else plain).tobytes(), zlib.Z_RLE)
    whole = delta.SECTION.pack(0, 0, 0, len(deflated)) + deflated
    return spelled if spelled is not None and len(spelled) < len(whole) else whole


def _tokens(values: "Bytes") -> bytes | None:
    """Return a section of tokens; None if too many symbols occur."""
    places = np.flatnonzero(values)
    counts = np.bincount(values[places], minlength=256)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    covered = np.cumsum(counts[order])
    several = min(int(np.searchsorted(covered, COVERED * len(places))) + 1, MAX_COMMON, len(order))
    common, rare = order[:several], order[several:]
    if len(rare) > MAX_RARE:
        return None

    steps = delta.STEPS + len(delta.SMALL_STEPS)
    run = min((delta.TOKENS - len(rare) - steps) // max(several, 1), 255)
    deflated = _deflate(
        _spelled(values[places], np.diff(places, prepend=-1) - 1, common, rare, run),
        zlib.Z_HUFFMAN_ONLY,
    )
    symbols = common.astype(np.uint8).tobytes() + rare.astype(np.uint8).tobytes()
    return delta.SECTION.pack(run, len(common), len(rare), len(deflated)) + symbols + deflated


def _spelled(
    symbols: "Bytes",
    zeros: "NDArray[np.int64]",
    common: "NDArray[np.int64]",
    rare: "NDArray[np.int64]",
    run: int,
) -> bytes:
    """Return the tokens (delta.words) of symbols, each with the number of zeros before it."""
    first_step = len(common) * run
    first_rare = first_step + delta.STEPS + len(delta.SMALL_STEPS)
    token = np.zeros(256, np.int64)
    token[common] = np.arange(len(common)) * run
    token[rare] = np.arange(len(rare)) + first_rare
    is_rare = np.isin(np.arange(256), rare)[symbols]
    long, short = np.divmod(zeros, run)
    last = (token[symbols] + np.where(is_rare, 0, short))[:, None]
    counts = np.hstack([_base_4(long), _base_4(np.where(is_rare, short, 0)), np.ones_like(last)])
    steps = np.broadcast_to(
        np.arange(first_step, first_rare), (len(symbols), first_rare - first_step)
    )
    return np.repeat(np.hstack([steps, last]).astype(np.uint8).ravel(), counts.ravel()).tobytes()


def _base_4(numbers: "Counts") -> "Counts":
    """Return four digits of each number, lowest first; the last one has no upper bound."""
    digits = [numbers >> 2 * place & 3 for place in range(_DIGITS - 1)]
    return np.stack([*digits, numbers >> 2 * (_DIGITS - 1)], axis=1)


def _deflate(raw: bytes, strategy: int) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, delta.DEFLATE_BITS, 9, strategy)
    return stream.compress(raw) + stream.flush()
