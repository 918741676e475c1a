"""Patches: frames that turn a file on the board into a new one (device/manifest/delta.py).

The patch of a model file is made tensor by tensor and chunk by chunk. Equal bytes are copied on the
board. A tensor of the same type and shape travels as its difference if that is smaller; everything
else travels as it is. Differences need the old file's bytes. With its digests alone (a board that
another computer pushed to), equal tensors are copied and the others travel whole. Of any other
file, runs that the old one has anywhere are copied.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from device.manifest import delta
from device.manifest.gguf import TYPES, Tensor, read_header
from toolchain.progress import Reporter
from toolchain.push.coding import difference, packed
from toolchain.push.runs import Runs, common

THREADS = 2
WINDOW = 16
"""Chunks that are worked on at once: a bound of the memory."""
ANCHOR, SEARCHES = 64, 200
"""Bytes that must be equal for a match in two headers, and how many matches are looked for."""
_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """A file that a board holds."""

    sha256: str
    tensors: Mapping[str, Tensor]
    """Tensors of a model file by name; empty for any other file."""
    path: Path | None = None
    """Path to its bytes; None if this computer does not have them."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 by tensor name; only if this computer does not have the bytes."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame. Its payload lies in the spool; that of PLAIN lies in the new file."""

    kind: int
    type: int
    payload: int
    made: int
    first: int
    """Byte offset in the old file."""
    at: int
    """Byte offset in the new file where it begins."""
    spooled: int = 0
    """Byte offset of its payload in the spool."""

    @property
    def wire_bytes(self) -> int:
        """Number of bytes that are sent for it."""
        return delta.FRAME.size + self.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """The frames that turn an old file into `new`, from byte `begin` on."""

    old: Old
    new: Path
    digests: Mapping[str, str]
    """sha256 of the new file's tensors, by name."""
    begin: int
    whole: frozenset[int]
    """Byte offsets where the stretches begin that are sent as they are."""
    frames: Sequence[Frame]
    spool: io.BytesIO
    """Payloads in memory: about a tenth of the model's size."""
    whole_tensor_bytes: int
    """Bytes that would be sent if every changed tensor went as it is."""

    def resumed(self, there: int) -> "tuple[int, int, Sequence[Frame]]":
        """Return where to resume if the board holds `there` bytes of the new file.

        That is the byte to resume at, the end of the last check before it, and the frames to send.
        """
        frames = enumerate(self.frames)
        place = next(
            n
            for n, frame in frames
            if frame.at + frame.made > there or (frame.kind == delta.CHECK and frame.at == there)
        )
        checks = (frame.at for frame in reversed(self.frames[:place]) if frame.kind == delta.CHECK)
        return self.frames[place].at, next(checks, self.begin), self.frames[place:]

    def missing_bytes(self, there: int) -> int:
        """Return the bytes to send if the board holds `there` bytes of the new file."""
        return sum(frame.wire_bytes for frame in self.resumed(there)[2])

    def without(self, at: int, report: Reporter) -> "Patch":
        """Return the patch from byte `at` on, with the stretch there sent as it is.

        For an old file that turned out to be damaged on the board.
        """
        return make(self.old, self.new, self.digests, report, begin=at, whole=self.whole | {at})

    def chunks(self, frames: Iterable[Frame]) -> Iterator[bytes]:
        """Yield the bytes of frames as they are sent."""
        payloads = self.spool.getbuffer()  # pushes to several boards read it at the same time
        with self.new.open("rb") as plain:
            for frame in frames:
                head = delta.FRAME.pack(
                    frame.kind, frame.type, frame.payload, frame.made, frame.first
                )
                if frame.kind == delta.PLAIN:
                    plain.seek(frame.at)
                    yield head + plain.read(frame.payload)
                else:
                    yield head + payloads[frame.spooled : frame.spooled + frame.payload]


class Patches:
    """Patches of several pushes of one bundle: each old file is compared once, whoever holds it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: dict[tuple[str, Path, bool], Patch] = {}

    def get(self, old: Old, new: Path, digests: Mapping[str, str], report: Reporter) -> Patch:
        """Return the patch that turns `old` into `new`; raise as `make` does."""
        key = (old.sha256, new, old.path is None)
        # One at a time: a comparison uses all cores, and what a second board waits for is there.
        with self._lock:
            if key not in self._made:
                self._made[key] = make(old, new, digests, report)
            return self._made[key]


def old_file(path: Path, sha256: str) -> Old:
    """Return a model file with its bytes on this computer; raise ManifestError for a bad one."""
    return Old(
        sha256=sha256,
        path=path,
        tensors={tensor.name: tensor for tensor in read_header(path).tensors},
    )


def plain_file(path: Path, sha256: str) -> Old:
    """Return a file without tensors, with its bytes on this computer."""
    return Old(sha256=sha256, path=path, tensors={})


def known_file(sha256: str, described: Sequence[Mapping[str, Any]]) -> Old:
    """Return a model file from a board's description (device/patch.py, `tensors`)."""
    tensors = [
        Tensor(e["name"], e["type"], tuple(e["shape"]), e["offset"], e["size"]) for e in described
    ]
    digests = {str(entry["name"]): str(entry["sha256"]) for entry in described}
    return Old(sha256=sha256, tensors={tensor.name: tensor for tensor in tensors}, digests=digests)


def closest(new: Path, olds: Sequence[Old]) -> Old | None:
    """Return the file that has most bytes of tensors in common with the new one; None if none has.

    Tensors are in common by name, type and shape.
    """
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
    """Return the patch that turns `old` into `new`, from byte `begin` on.

    Stretches that begin at a byte in `whole` are sent as they are. Raises ManifestError if `old` is
    a model file and `new` is no sound GGUF file.
    """
    size = new.stat().st_size
    spool = io.BytesIO()
    writer = _Writer(old, new, spool)

    with ThreadPoolExecutor(THREADS) as pool:
        for name, tensor, start, end in _stretches(old, new):
            if end <= begin:
                continue
            before = old.tensors.get(name)
            if start in whole:
                writer.plain(start, end)
            elif not old.tensors:
                writer.runs(start, end)
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
            report.step("compare", end, size, "B")

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


def _stretches(old: Old, new: Path) -> Iterator[tuple[str, Tensor | None, int, int]]:
    """Yield name, tensor, first and last byte of all parts of the new file.

    Parts of a model file are the header, the tensors and the padding between them.
    """
    size = new.stat().st_size
    if not old.tensors:
        for start in range(0, size, delta.FRAME_BYTES):
            yield "", None, start, min(start + delta.FRAME_BYTES, size)
        return

    at = 0
    for tensor in read_header(new).tensors:
        if tensor.offset > at:
            yield "", None, at, tensor.offset
        at = tensor.offset + tensor.size
        yield tensor.name, tensor, tensor.offset, at

    if size > at:
        yield "", None, at, size


class _Writer:
    """Collects frames; their payloads go into a spool."""

    def __init__(self, old: Old, new: Path, spool: io.BytesIO) -> None:
        self._new = np.memmap(new, np.uint8, "r")
        self._old = np.memmap(old.path, np.uint8, "r") if old.path else np.zeros(0, np.uint8)
        self._old_head = (
            min((tensor.offset for tensor in old.tensors.values()), default=0) if old.path else 0
        )
        self._runs = Runs(self._old) if not old.tensors else None
        self._spool = spool
        self.frames: list[Frame] = []
        self.whole_tensor_bytes = 0

    def copy(self, start: int, end: int, first: int) -> None:
        """Copy bytes of the old file; the frame before is extended if it ends there."""
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
        """Add bytes that are sent as they are."""
        self.whole_tensor_bytes += end - start
        for at in range(start, end, delta.FRAME_BYTES):
            made = min(delta.FRAME_BYTES, end - at)
            self.frames.append(Frame(delta.PLAIN, 0, made, made, 0, at))

    def chunks(self, pool: ThreadPoolExecutor, tensor: Tensor, before: Tensor) -> None:
        """Add a tensor: equal chunks are copied, others sent as differences."""
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
                at = tensor.offset + start
                made = min(step, tensor.size - start)
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
        """Add the header: parts that the old header has are copied, the rest is sent."""
        for first, at, stop in matches(
            bytes(self._old[: self._old_head]), bytes(self._new[start:end])
        ):
            if first is not None:
                self.copy(at, stop, first)
                continue
            for piece in range(at, stop, delta.FRAME_BYTES):
                self._packed(piece, min(piece + delta.FRAME_BYTES, stop))

    def runs(self, start: int, end: int) -> None:
        """Add bytes of a file without tensors: runs that the old file has are copied."""
        assert self._runs
        for first, at, stop in self._runs.matches(self._new[start:end], start):
            if first is None:
                self._packed(start + at, start + stop)
            else:
                self.copy(start + at, start + stop, first)

    def _packed(self, start: int, end: int) -> None:
        """Add bytes that are deflated, if that makes them fewer."""
        payload = packed(self._new[start:end].tobytes())
        if len(payload) < end - start:
            self._spooled(delta.PACKED, payload, end - start, start)
        else:
            self.plain(start, end)

    def check(self, start: int, end: int) -> None:
        """Close a stretch with its check."""
        self._spooled(delta.CHECK, hashlib.sha256(self._new[start:end].data).digest(), 0, end)

    def _compare(self, tensor: Tensor, before: Tensor, start: int, step: int) -> bytes | None:
        """Return the difference of a chunk; None if it is equal."""
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
    """Yield all of `new` in order as (offset in `old` or None, first byte, last byte).

    Equal stretches are looked for in order.
    """
    before, after = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    at = place = searches = 0
    while at < len(new):
        same = common(before[place:], after[at:])
        if same:
            yield place, at, at + same
        at, place = at + same, place + same
        skipped = 0
        found = -1
        while at + skipped + ANCHOR <= len(new) and searches < SEARCHES:
            searches += 1
            found = old.find(new[at + skipped : at + skipped + ANCHOR], place)
            if found >= 0:
                break
            skipped = skipped * 2 or ANCHOR // 4
        literal = skipped if found >= 0 else len(new) - at
        if literal:
            yield None, at, at + literal
        at = at + literal
        place = max(found, 0)
