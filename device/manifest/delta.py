"""The format of a model update: frames that copy from an older file, and frames that add to it.

A frame is a FRAME header and its payload. COPY takes bytes of the old file unchanged. PLAIN and
PACKED bring bytes. ADD brings the difference to a run of whole blocks of the old file. CHECK closes
a stretch (a tensor, the header) with its sha256.

The difference is taken lane by lane, as integers: a quantized code or scale that changed by one is
then a 1, whatever its bits. It is sorted by the position of a byte in its block, since scales and
codes have different statistics. Each field is a section of its own: deflated, or, if most of it is
zero, written as tokens for runs of zeros and the byte that ends them (`words`).

Standard library only, Python 3.10 up. What was tried instead: docs/adr, "A model update travels as
differences of blocks".
"""

import struct

from device.manifest.gguf import TYPES

FRAME = struct.Struct("<BBxxIQQ")
"""Kind, tensor type number, bytes of payload, bytes of the new file that it makes, first byte in
the old file."""
COPY, PLAIN, PACKED, ADD, CHECK = range(5)
FRAME_BYTES = 1 << 20
"""Most bytes of the new file that one frame makes, except COPY."""
# It is what is sent again after a cut, and what the board holds in memory.
PAYLOAD_BYTES = 2 * FRAME_BYTES
LAST_BYTE = (1 << 62) - 1
"""Offset of the last byte that a file can have."""
# off_t has 63 bits, and a read ends behind the byte where it begins.
DIGEST_BYTES = 32
SECTION = struct.Struct("<BBBxI")
"""Run length (0: only deflated), symbols with all runs, symbols without runs, deflated bytes."""
DEFLATE_BITS = -15
"""`wbits` of raw deflate: every frame is checked by a digest already."""
STEPS, SMALL_STEPS = 4, (1, 4, 16, 64)
TOKENS = 256

_FIELDS = {
    "F32": ((4, 32),),
    "F16": ((2, 16),),
    "BF16": ((2, 16),),
    "Q4_0": ((2, 16), (16, 4)),
    "Q4_1": ((2, 16), (2, 16), (16, 4)),
    "IQ4_NL": ((2, 16), (16, 4)),
    "Q5_0": ((2, 16), (4, 8), (16, 4)),
    "Q5_1": ((2, 16), (2, 16), (4, 8), (16, 4)),
    "Q8_0": ((2, 16), (32, 8)),
    "Q2_K": ((16, 4), (64, 8), (2, 16), (2, 16)),
    "Q3_K": ((32, 8), (64, 8), (12, 8), (2, 16)),
    "Q4_K": ((2, 16), (2, 16), (12, 8), (128, 4)),
    "Q5_K": ((2, 16), (2, 16), (12, 8), (32, 8), (128, 4)),
    "Q6_K": ((128, 4), (64, 8), (16, 8), (2, 16)),
    "IQ4_XS": ((2, 16), (2, 8), (4, 8), (128, 4)),
}
"""Tensor type → (bytes, bits of a number) of each field of a block (ggml-common.h)."""


def block_bytes(kind: int) -> int:
    """Return the bytes of one block of a tensor type."""
    return TYPES[kind][2]


def fields(kind: int) -> "tuple[tuple[int, int], ...]":
    """Return (bytes, bits of a lane) of each field of a block.

    Lanes of 16 and 32 bits are a field each.
    """
    return _FIELDS.get(TYPES[kind][0], ((block_bytes(kind), 8),))


def high_bits(kind: int) -> bytes:
    """Return a block with the highest bit of every lane set.

    Addition within lanes leaves these bits out.
    """
    return b"".join(
        b"\x88" * size if lane == 4 else (bytes(lane // 8 - 1) + b"\x80") * (size * 8 // lane)
        for size, lane in fields(kind)
    )


def words(common: bytes, rare: bytes, run: int) -> "list[bytes]":
    """Return the bytes that each token stands for; `run` counts from 0.

    In this order: zeros then a common symbol, zeros alone, a rare symbol alone.
    """
    ended = [bytes(zeros) + bytes([symbol]) for symbol in common for zeros in range(run)]
    zeros = [bytes(run * 4**step) for step in range(STEPS)] + [bytes(step) for step in SMALL_STEPS]
    return [*ended, *zeros, *(bytes([symbol]) for symbol in rare)]
