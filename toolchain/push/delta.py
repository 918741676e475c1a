"""What a board needs to make a new model file of one that it holds: the frames of device/manifest/delta.py, counted and held ready.

Taken tensor by tensor and chunk by chunk: what is equal is copied on the board, what has the same type and shape travels as its
difference where that is smaller, all else as it is. The old file's bytes are needed for that; with its digests alone
(a board that another computer pushed to) equal tensors are copied and the others travel whole.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from device.manifest import delta
from device.manifest.gguf import TYPES, Tensor, read_header
from toolchain.progress import Reporter
from toolchain.push.coding import difference, packed

THREADS = 2
WINDOW = 16
"""Chunks that are worked on at once: what is held in memory."""
ANCHOR, SEARCHES = 64, 200
"""Bytes that must be equal for a place in two headers to be the same, and how often one is looked for."""
_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """A model file that a board holds."""

    sha256: str
    tensors: Mapping[str, Tensor]
    path: Path | None = None
    """Its bytes, where this computer has them."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of its tensors, where it has not."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose payload lies in the spool, or for PLAIN in the new file."""

    kind: int
    type: int
    payload: int
    made: int
    first: int
    """Byte in the old file."""
    at: int
    """Byte of the new file that it begins with."""
    spooled: int = 0
    """Where its payload lies in the spool."""

    @property
    def wire_bytes(self) -> int:
        """What goes over the line."""
        return delta.FRAME.size + self.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """The frames that make `new` of an old file, from byte `begin` on."""

    old: Old
    new: Path
    digests: Mapping[str, str]
    """Of the new file's tensors."""
    begin: int
    whole: frozenset[int]
    """Where the stretches begin that are sent as they are."""
    frames: Sequence[Frame]
    spool: io.BytesIO
    """In memory: about a tenth of the model."""
    whole_tensor_bytes: int
    """What would be sent if every tensor that changed went as it is."""

    def resumed(self, there: int) -> "tuple[int, int, Sequence[Frame]]":
        """Return the byte to go on from where so many are there, the end of the last check before it, and what is to be sent."""
        frames = enumerate(self.frames)
        place = next(
            n
            for n, frame in frames
            if frame.at + frame.made > there or (frame.kind == delta.CHECK and frame.at == there)
        )
        checks = (frame.at for frame in reversed(self.frames[:place]) if frame.kind == delta.CHECK)
        return self.frames[place].at, next(checks, self.begin), self.frames[place:]

    def missing_bytes(self, there: int) -> int:
        """Return what is to be sent where so many bytes of the new file are there."""
        return sum(frame.wire_bytes for frame in self.resumed(there)[2])

    def without(self, at: int, report: Reporter) -> "Patch":
        """Return the patch from byte `at` on, where the old file turned out to be damaged: that stretch is sent as it is."""
        return make(self.old, self.new, self.digests, report, begin=at, whole=self.whole | {at})

    def chunks(self, frames: Iterable[Frame]) -> Iterator[bytes]:
        """Yield frames as they travel."""
        with self.new.open("rb") as plain:
            for frame in frames:
                stream = plain if frame.kind == delta.PLAIN else self.spool
                stream.seek(frame.at if frame.kind == delta.PLAIN else frame.spooled)
                yield delta.FRAME.pack(
                    frame.kind, frame.type, frame.payload, frame.made, frame.first
                ) + stream.read(frame.payload)


def old_file(path: Path, sha256: str) -> Old:
    """Return a model file whose bytes are on this computer; raise ManifestError for a bad one."""
    return Old(
        sha256=sha256,
        path=path,
        tensors={tensor.name: tensor for tensor in read_header(path).tensors},
    )


def known_file(sha256: str, described: Sequence[Mapping[str, Any]]) -> Old:
    """Return a model file as a board describes it (device/patch.py, `tensors`)."""
    tensors = [
        Tensor(e["name"], e["type"], tuple(e["shape"]), e["offset"], e["size"]) for e in described
    ]
    digests = {str(entry["name"]): str(entry["sha256"]) for entry in described}
    return Old(sha256=sha256, tensors={tensor.name: tensor for tensor in tensors}, digests=digests)


def likest(new: Path, olds: Sequence[Old]) -> Old | None:
    """Return the file that has most in common with the new one: tensors of the same name, type and shape; None where none has."""
    tensors = read_header(new).tensors
    common = [
        sum(tensor.size for tensor in tensors if _alike(tensor, old.tensors.get(tensor.name)))
        for old in olds
    ]
    return olds[common.index(max(common))] if max(common, default=0) else None


def make(
    old: Old,
    new: Path,
    digests: Mapping[str, str],
    report: Reporter,
    *,
    begin: int = 0,
    whole: frozenset[int] = frozenset(),
) -> Patch:
    """Return the patch that makes `new` of `old`, from byte `begin` on; what begins at a byte in `whole` is sent as it is.

    Raise ManifestError if `new` is no sound GGUF file.
    """
    header = read_header(new)
    spool = io.BytesIO()
    writer = _Writer(old, new, spool)
    with ThreadPoolExecutor(THREADS) as pool:
        for name, tensor, start, end in _stretches(header.tensors, header.size):
            if end <= begin:
                continue
            before = old.tensors.get(name)
            if start in whole:
                writer.plain(start, end)
            elif tensor is None:
                writer.head(start, end) if start == 0 else writer.plain(start, end)
            elif before is None or not _alike(tensor, before):
                writer.plain(start, end)
            elif old.path is None:
                writer.copy(start, end, before.offset) if old.digests[name] == digests.get(
                    name
                ) else writer.plain(start, end)
            else:
                writer.chunks(pool, tensor, before)
            writer.check(start, end)
            report.step("compare", end, header.size, "B")
    return Patch(
        old=old,
        new=new,
        digests=digests,
        begin=begin,
        whole=whole,
        frames=writer.frames,
        spool=spool,
        whole_tensor_bytes=writer.whole_tensor_bytes,
    )


def _alike(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and (one.type, one.shape) == (other.type, other.shape)


def _stretches(
    tensors: Sequence[Tensor], size: int
) -> Iterator[tuple[str, Tensor | None, int, int]]:
    """Yield name, tensor, first and last byte of all parts of a file: the header, the tensors, the padding between them."""
    at = 0
    for tensor in tensors:
        if tensor.offset > at:
            yield "", None, at, tensor.offset
        at = tensor.offset + tensor.size
        yield tensor.name, tensor, tensor.offset, at
    if size > at:
        yield "", None, at, size


class _Writer:
    """Frames as they are found, their payloads in a spool."""

    def __init__(self, old: Old, new: Path, spool: io.BytesIO) -> None:
        self._new = np.memmap(new, np.uint8, "r")
        self._old = np.memmap(old.path, np.uint8, "r") if old.path else np.zeros(0, np.uint8)
        self._old_head = (
            min((tensor.offset for tensor in old.tensors.values()), default=0) if old.path else 0
        )
        self._spool = spool
        self.frames: list[Frame] = []
        self.whole_tensor_bytes = 0

    def copy(self, start: int, end: int, first: int) -> None:
        """Take bytes of the old file; one frame with the one before where that goes on."""
        last = self.frames[-1] if self.frames else None
        if (
            last
            and last.kind == delta.COPY
            and last.first + last.made == first
            and last.at + last.made == start
        ):
            self.frames[-1] = Frame(delta.COPY, 0, 0, last.made + end - start, last.first, last.at)
        else:
            self.frames.append(Frame(delta.COPY, 0, 0, end - start, first, start))

    def plain(self, start: int, end: int) -> None:
        """Send bytes as they are."""
        self.whole_tensor_bytes += end - start
        for at in range(start, end, delta.FRAME_BYTES):
            made = min(delta.FRAME_BYTES, end - at)
            self.frames.append(Frame(delta.PLAIN, 0, made, made, 0, at))

    def chunks(self, pool: ThreadPoolExecutor, tensor: Tensor, before: Tensor) -> None:
        """Send a tensor as what is equal and what differs."""
        step = (
            delta.FRAME_BYTES
            // delta.block_bytes(_NUMBERS[tensor.type])
            * delta.block_bytes(_NUMBERS[tensor.type])
        )
        starts = iter(range(0, tensor.size, step))
        changed = False
        while window := list(islice(starts, WINDOW)):
            compared = pool.map(lambda start: self._compare(tensor, before, start, step), window)
            for start, payload in zip(window, compared, strict=True):
                at, made = tensor.offset + start, min(step, tensor.size - start)
                changed |= payload is not None
                if payload is None:
                    self.copy(at, at + made, before.offset + start)
                elif len(payload) < made:
                    self._spooled(
                        delta.ADD,
                        payload,
                        made,
                        at,
                        tensor_type=_NUMBERS[tensor.type],
                        first=before.offset + start,
                    )
                else:
                    self.frames.append(Frame(delta.PLAIN, 0, made, made, 0, at))
        self.whole_tensor_bytes += tensor.size * changed

    def head(self, start: int, end: int) -> None:
        """Send the header as what stands in the old one and what is between."""
        for first, at, stop in matches(
            bytes(self._old[: self._old_head]), bytes(self._new[start:end])
        ):
            if first is not None:
                self.copy(at, stop, first)
                continue
            for piece in range(at, stop, delta.FRAME_BYTES):
                made = min(delta.FRAME_BYTES, stop - piece)
                self._spooled(
                    delta.PACKED, packed(self._new[piece : piece + made].tobytes()), made, piece
                )

    def check(self, start: int, end: int) -> None:
        """Close a stretch."""
        self._spooled(delta.CHECK, hashlib.sha256(self._new[start:end].data).digest(), 0, end)

    def _compare(self, tensor: Tensor, before: Tensor, start: int, step: int) -> bytes | None:
        """Return the difference of a chunk, None where there is none."""
        size = min(step, tensor.size - start)
        old = self._old[before.offset + start : before.offset + start + size]
        new = self._new[tensor.offset + start : tensor.offset + start + size]
        return None if np.array_equal(old, new) else difference(old, new, _NUMBERS[tensor.type])

    def _spooled(
        self, kind: int, payload: bytes, made: int, at: int, *, tensor_type: int = 0, first: int = 0
    ) -> None:
        self.frames.append(
            Frame(kind, tensor_type, len(payload), made, first, at, self._spool.tell())
        )
        self._spool.write(payload)


def matches(old: bytes, new: bytes) -> Iterator[tuple[int | None, int, int]]:
    """Yield all of `new` in order as (place in `old` or None, first byte, last byte); looks for equal stretches in order."""
    at = place = searches = 0
    while at < len(new):
        same = _common(old[place:], new[at:])
        if same:
            yield place, at, at + same
        at, place = at + same, place + same
        skipped, found = 0, -1
        while at + skipped + ANCHOR <= len(new) and searches < SEARCHES:
            searches += 1
            found = old.find(new[at + skipped : at + skipped + ANCHOR], place)
            if found >= 0:
                break
            skipped = skipped * 2 or ANCHOR // 4
        literal = skipped if found >= 0 else len(new) - at
        if literal:
            yield None, at, at + literal
        at, place = at + literal, max(found, 0)


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes two begin with alike."""
    length = min(len(one), len(other))
    differing = np.frombuffer(one, np.uint8, length) != np.frombuffer(other, np.uint8, length)
    return int(differing.argmax()) if differing.any() else length
