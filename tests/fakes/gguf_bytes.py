"""GGUF files written byte by byte, sound and not: what no library would write."""

import random
import struct

UINT32, BOOL, STRING, ARRAY, UINT64 = 4, 7, 8, 9, 10
F32, Q8_0 = 0, 8


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(words: str | bytes) -> bytes:
    raw = words.encode() if isinstance(words, str) else words
    return u64(len(raw)) + raw


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + u32(kind) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return u32(kind) + u64(count) + items


def tensor(
    name: str | bytes = "a", shape: tuple[int, ...] = (64, 2), kind: int = F32, offset: int = 0
) -> bytes:
    return text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)


def gguf(
    entries: list[bytes],
    tensors: list[bytes],
    data: int = 0,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    head = (
        b"GGUF"
        + u32(version)
        + u64(len(tensors))
        + u64(len(entries))
        + b"".join(entries)
        + b"".join(tensors)
    )
    return head + bytes(-len(head) % alignment) + random.Random(1).randbytes(data)


NAME = entry("general.name", STRING, text("tiny ☕"))
SOUND = gguf(
    [
        NAME,
        entry("general.alignment", UINT32, u32(64)),
        entry("flag", BOOL, b"\1"),
        entry("few", ARRAY, array(UINT32, 2, u32(7) + u32(8))),
        entry("tokens", ARRAY, array(STRING, 100, b"".join(text(f"t{i}") for i in range(100)))),
        entry("many", ARRAY, array(UINT64, 100, bytes(800))),
    ],
    [tensor(), tensor("b.weight", (32, 3), Q8_0, 512)],
    512 + 128,
    alignment=64,
)
"""Two tensors of 512 and 102 bytes; data is padded to 64."""
