"""Blobs on their way to a board in a `receive` session (protocol: device/receive.py).

A blob is sent whole, from the byte where it was cut, or as a patch of a file that the board holds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.board.connection import Channel
from toolchain.board.device import Device, parse
from toolchain.errors import BoardError
from toolchain.progress import Reporter

if TYPE_CHECKING:
    from toolchain.push.delta import Patch

READ_BYTES = 1 << 20
GROUP_BYTES = 8 << 20
GROUP_BLOBS = 500
"""Blobs in one request: small files share the board's fsyncs."""
MAX_WRONG = 3
"""Times that a board may find its old file damaged before the whole rest is sent as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file that the board lacks, or a part of it."""

    path: Path
    sha256: str
    size: int
    offset: int
    """Offset of the first missing byte."""
    patch: "Patch | None" = None
    """Patch from a file that the board holds; None: the bytes are sent."""

    @property
    def missing_bytes(self) -> int:
        """Number of bytes to send."""
        return self.patch.missing_bytes(self.offset) if self.patch else self.size - self.offset


class _Progress:
    """Counts the bytes that are sent."""

    def __init__(self, total: int, report: Reporter) -> None:
        self._total, self._report = total, report
        self.sent = 0

    def add(self, count: int) -> None:
        self.sent += count
        self._report.step("send", self.sent, max(self._total, self.sent), "B")


def send_blobs(device: Device, channel: Channel, blobs: Sequence[Blob], report: Reporter) -> int:
    """Send the missing bytes of each blob; return their number."""
    progress = _Progress(sum(blob.missing_bytes for blob in blobs), report)
    whole = [blob for blob in blobs if not blob.patch]
    for blob in blobs:
        if blob.patch and (rest := _send_patch(device, channel, blob, progress, report)):
            whole.append(rest)

    for group in _groups(whole):
        entries = [
            {"sha256": blob.sha256, "size": blob.size, "offset": blob.offset} for blob in group
        ]
        device.send(channel, _line({"op": "put", "blobs": entries}))
        for blob in group:
            for chunk in _chunks(blob):
                device.send(channel, chunk)
                progress.add(len(chunk))
        _hear(device, channel)

    return progress.sent


def send_manifest(
    device: Device, channel: Channel, kind: str, manifest: bytes, signature: bytes
) -> int:
    """Have the board make a folder from blobs that it holds; return the bytes sent for that."""
    device.send(
        channel, _line({"op": kind, "size": len(manifest), "signature_size": len(signature)})
    )
    device.send(channel, manifest + signature)
    _hear(device, channel)
    return len(manifest + signature)


def _send_patch(
    device: Device, channel: Channel, blob: Blob, progress: _Progress, report: Reporter
) -> Blob | None:
    """Send the frames of a patch; return the rest of the blob if the old file is damaged."""
    patch, there = blob.patch, blob.offset
    for _ in range(MAX_WRONG):
        assert patch
        offset, checked, frames = patch.resumed(there)
        entry = {
            "sha256": blob.sha256,
            "size": blob.size,
            "offset": offset,
            "checked": checked,
            "base": patch.old.sha256,
        }
        device.send(channel, _line({"op": "patch", **entry}))
        for chunk in patch.chunks(frames):
            device.send(channel, chunk)
            progress.add(len(chunk))
        answer = _hear(device, channel)
        if "wrong_at" not in answer:
            return None
        there = int(answer["wrong_at"])
        report.note(
            f"{device.address}: {blob.path.name}: the file before is damaged on the board; "
            f"sent whole from byte {there:,}"
        )
        patch = patch.without(there, report)

    return replace(blob, offset=there, patch=None)


def _chunks(blob: Blob) -> Iterator[memoryview]:
    """Yield the missing bytes in chunks; a chunk is valid until the next one."""
    buffer = memoryview(bytearray(READ_BYTES))
    with blob.path.open("rb", buffering=0) as stream:
        stream.seek(blob.offset)
        while count := stream.readinto(buffer):
            yield buffer[:count]


def _line(request: Mapping[str, object]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _hear(device: Device, channel: Channel) -> dict[str, Any]:
    if not (line := channel.read_line()):
        ended = channel.finish()
        raise BoardError(
            f"{device.address}: the transfer ended early: "
            f"{ended.stderr.strip()[-300:] or ended.code}"
        )
    return parse(device.address, "receive", line)


def _groups(blobs: Sequence[Blob]) -> Iterator[list[Blob]]:
    """Yield blobs in their order, small ones in one group."""
    group: list[Blob] = []
    for blob in blobs:
        if group and (
            len(group) == GROUP_BLOBS
            or sum(b.missing_bytes for b in group) + blob.missing_bytes > GROUP_BYTES
        ):
            yield group
            group = []
        group.append(blob)

    if group:
        yield group
