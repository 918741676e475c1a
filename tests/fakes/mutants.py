"""Mutants of a file whose structure is no text: what hostile files of any format are made of."""

import random


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """Return bytes with bits flipped, words overwritten or moved, and pieces cut or doubled."""
    spoiled = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(spoiled))
        piece = bytes(spoiled[at : at + draw.randrange(1, 24)])
        way = draw.randrange(5)
        if way == 0:
            spoiled[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            spoiled[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x80" * 4))
        elif way == 2:
            del spoiled[at : at + len(piece)]
        elif way == 3:
            spoiled[at:at] = piece
        else:
            there = draw.randrange(len(spoiled))
            spoiled[there : there + len(piece)] = piece
    return bytes(spoiled)
