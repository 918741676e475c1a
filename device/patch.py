"""A new file made from an older one and the frames of a patch, in bounded memory.

Every stretch is checked by its own sha256 before the next. If the old file is not what the host
assumed, the new file ends before that stretch, and the answer says from which byte the host must
send it whole. Addition within lanes is done on whole runs of blocks as one long integer: the
fastest that Python does without a library.
"""

import argparse
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from device import disk
from device.errors import DeviceError
from device.manifest import delta
from device.manifest.gguf import TYPES, read_header
from device.store import RELEASES, Store

_SIGNS = bytes(255 if byte > 127 else 0 for byte in range(256))
_BYTE = b"\x80"


class Source(Protocol):
    """The stream of frames."""

    def exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes; raise DeviceError if there are fewer."""


class _WrongBaseError(Exception):
    """The old file is not the one that the patch was made for."""


class Rebuilt:
    """The new file, as far as it is made."""

    def __init__(self, descriptor: int, at: int, checked: int) -> None:
        """Continue at byte `at`.

        Bytes from `checked` on belong to a stretch that is not checked yet.
        """
        self._descriptor = descriptor
        self.at = self.checked = checked
        self.total = hashlib.sha256()

        for chunk in _read(descriptor, 0, checked):
            self.total.update(chunk)

        self._stretch = hashlib.sha256()
        for chunk in _read(descriptor, checked, at - checked):
            self._count(chunk)

    def write(self, chunk: bytes) -> None:
        """Add bytes at the end."""
        disk.write_all(self._descriptor, memoryview(chunk))
        self._count(chunk)

    def close_stretch(self, digest: bytes) -> None:
        """Compare the stretch since the last check with its sha256; cut it off if it differs."""
        if self._stretch.digest() != digest:
            raise _WrongBaseError
        self.checked, self._stretch = self.at, hashlib.sha256()

    def _count(self, chunk: bytes) -> None:
        self.total.update(chunk)
        self._stretch.update(chunk)
        self.at += len(chunk)


def tensors(argv: "list[str]") -> int:
    """Print offset and sha256 of each tensor in the current model file: `tensors --root ROOT`."""
    parser = argparse.ArgumentParser(prog="tensors")
    parser.add_argument("--root", type=Path, required=True)
    store = Store(parser.parse_args(argv).root)
    current = store.current()
    manifest = store.read_release(current.release) if current else None
    answer: dict[str, Any] = {"sha256": "", "tensors": []}
    if current and manifest and manifest.tensors:
        digests = {
            str(tensor.get("name")): str(tensor.get("sha256")) for tensor in manifest.tensors
        }
        header = read_header(store.folder(RELEASES, current.release) / manifest.model)
        found = [
            dict(asdict(tensor), sha256=digests.get(tensor.name, "")) for tensor in header.tensors
        ]
        answer = {"sha256": manifest.file(manifest.model).sha256, "tensors": found}

    print(json.dumps(answer))
    return 0


@dataclass(frozen=True)
class _Frame:
    """The header of a frame."""

    kind: int
    tensor_type: int
    payload_bytes: int
    made: int
    """Bytes of the new file that it makes."""
    first: int
    """First byte in the old file."""


def rebuild(source: Source, base: int, out: Rebuilt, size: int) -> "int | None":
    """Read frames until `size` bytes are made and checked.

    Return None, or the byte from which the old file was of no use.
    """
    at = out.at
    closed = out.checked
    wrong_at = None

    while closed < size:
        frame = _Frame(*delta.FRAME.unpack(source.exactly(delta.FRAME.size)))
        _refuse_odd(frame, size - at)
        payload = source.exactly(frame.payload_bytes)

        at += frame.made
        if frame.kind == delta.CHECK:
            closed = at

        try:
            if wrong_at is None:
                _apply(frame, payload, base, out)
        except _WrongBaseError:
            wrong_at = out.checked

    return wrong_at


def _refuse_odd(frame: _Frame, left: int) -> None:
    """Raise DeviceError for a frame that is out of bounds, or makes more than `left` bytes."""
    sound = (
        frame.kind <= delta.CHECK
        and frame.payload_bytes <= delta.PAYLOAD_BYTES
        and frame.made <= left
        and (frame.made <= delta.FRAME_BYTES or frame.kind == delta.COPY)
        and (frame.made > 0 or frame.kind == delta.CHECK)
        and frame.first <= delta.LAST_BYTE
    )
    if frame.kind == delta.ADD:
        whole_blocks = (
            frame.tensor_type in TYPES and frame.made % delta.block_bytes(frame.tensor_type) == 0
        )
        sound = sound and whole_blocks
    if frame.kind == delta.CHECK:
        sound = sound and frame.payload_bytes == delta.DIGEST_BYTES

    if not sound:
        size = f"{frame.payload_bytes:,} bytes for {frame.made:,}"
        raise DeviceError("bad_patch", f"frame of kind {frame.kind} with {size}", "push again")


def _apply(frame: _Frame, payload: bytes, base: int, out: Rebuilt) -> None:
    """Write what a frame makes, or close the stretch; raise _WrongBaseError."""
    if frame.kind == delta.CHECK:
        out.close_stretch(payload)
    elif frame.kind == delta.COPY:
        for chunk in _read(base, frame.first, frame.made):
            out.write(chunk)
    elif frame.kind == delta.ADD:
        (old,) = _read(base, frame.first, frame.made)
        more = difference(payload, frame.tensor_type, frame.made)
        out.write(add(old, more, frame.tensor_type))
    else:
        content = payload if frame.kind == delta.PLAIN else _inflate(payload, frame.made)
        out.write(_exactly(frame.made, content))


def difference(payload: bytes, kind: int, size: int) -> bytes:
    """Return the difference in a payload, in blocks as they lie in the file."""
    block = delta.block_bytes(kind)
    blocks = size // delta.block_bytes(kind)
    out = bytearray(size)
    sections = _Sections(payload)
    place = 0

    for width, lane in delta.fields(kind):
        planes = (
            sections.number(width, blocks)
            if lane > 8
            else sections.take(width * blocks, nibbles=lane == 4)
        )
        for byte in range(width):
            out[place + byte :: block] = planes[byte * blocks : (byte + 1) * blocks]
        place += width

    return bytes(out)


def add(one: bytes, other: bytes, kind: int) -> bytes:
    """Return the sum of two runs of blocks, lane by lane."""
    return _add(one, other, delta.high_bits(kind))


def _add(one: bytes, other: bytes, pattern: bytes) -> bytes:
    high, low = _masks(pattern, len(one) // len(pattern))
    left = int.from_bytes(one, "little")
    right = int.from_bytes(other, "little")
    return ((left & low) + (right & low) ^ (left ^ right) & high).to_bytes(len(one), "little")


@functools.lru_cache(maxsize=8)
def _masks(pattern: bytes, count: int) -> "tuple[int, int]":
    high = int.from_bytes(pattern * count, "little")
    return high, high ^ (1 << 8 * len(pattern) * count) - 1


class _Sections:
    """The sections of a payload, in order."""

    def __init__(self, payload: bytes) -> None:
        self._left = memoryview(payload)

    def number(self, width: int, blocks: int) -> bytes:
        """Return the byte planes of numbers, the lowest first."""
        # Each plane was sent minus the sign of the one below.
        planes = [self.take(blocks, nibbles=False)]
        while len(planes) < width:
            planes.append(
                _add(self.take(blocks, nibbles=False), planes[-1].translate(_SIGNS), _BYTE)
            )

        return b"".join(planes)

    def take(self, size: int, *, nibbles: bool) -> bytes:
        """Return the bytes of the next section."""
        run, common, rare, packed = delta.SECTION.unpack(self._bytes(delta.SECTION.size))
        symbols = self._bytes(common + rare)
        body = self._bytes(packed)
        if not run:
            return _exactly(size, _inflate(body, size))
        if common * run + rare + delta.STEPS + len(delta.SMALL_STEPS) > delta.TOKENS or (
            nibbles and max(symbols, default=0) > 15
        ):
            raise _bad("a section has too many words")

        spread = _spell(
            _inflate(body, 2 * size),
            delta.words(symbols[:common], symbols[common:], run),
            size << nibbles,
        )
        return _pack(spread) if nibbles else spread

    def _bytes(self, size: int) -> bytes:
        taken = self._left[:size]
        self._left = self._left[size:]
        return _exactly(size, bytes(taken))


def _spell(tokens: bytes, words: "list[bytes]", size: int) -> bytes:
    """Return the bytes that tokens stand for, with the zeros behind the last one."""
    if tokens and max(tokens) >= len(words):
        raise _bad("a token stands for nothing")
    if sum(tokens.count(token) * len(word) for token, word in enumerate(words)) > size:
        raise _bad("a section is longer than its field")
    return b"".join(map(words.__getitem__, tokens)).ljust(size, b"\0")


def _pack(nibbles: bytes) -> bytes:
    """Return bytes of low nibbles followed by as many high ones."""
    half = len(nibbles) // 2
    low = int.from_bytes(nibbles[:half], "little")
    high = int.from_bytes(nibbles[half:], "little")
    return (low | high << 4).to_bytes(half, "little")


def _inflate(packed: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(delta.DEFLATE_BITS)
    try:
        raw = stream.decompress(packed, limit + 1)
    except zlib.error as error:
        raise _bad("a section cannot be inflated") from error

    if not stream.eof or len(raw) > limit:
        raise _bad("a section is cut or too long")

    return raw


def _exactly(size: int, raw: bytes) -> bytes:
    if len(raw) != size:
        raise _bad(f"{len(raw):,} bytes came where {size:,} belong")
    return raw


def _read(descriptor: int, first: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a file; raise _WrongBaseError if it has fewer."""
    for start in range(first, first + size, delta.FRAME_BYTES):
        chunk = os.pread(descriptor, min(delta.FRAME_BYTES, first + size - start), start)
        if len(chunk) < min(delta.FRAME_BYTES, first + size - start):
            raise _WrongBaseError
        yield chunk


def _bad(problem: str) -> DeviceError:
    return DeviceError("bad_patch", f"the patch makes no sense: {problem}", "push again")
