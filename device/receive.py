"""A transfer session on stdin and stdout: blobs arrive and become releases and runtimes.

Each request is a JSON line, and raw bytes follow it if it says so. Each answer is a JSON line.

    {"op": "put", "blobs": [{"sha256", "size", "offset"}, …]}
        then each blob's bytes from its offset on
    {"op": "patch", "sha256", "size", "offset", "checked", "base"}
        then frames (device/manifest/delta.py) that make the blob
    {"op": "runtime" | "release", "size": N, "signature_size": M}
        then N bytes of manifest and M of its signature

A blob is hashed while it arrives and kept as `.part` until it is whole. So a cut session resumes at
the byte, and a cut patch at the frame. The answer to a patch has `wrong_at` if the base is not the
expected one: the host sends the blob whole from that byte on.
"""

import argparse
import errno
import fcntl
import hashlib
import json
import os
import select
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from device import disk
from device.errors import DeviceError, read_only
from device.manifest import MAX_MANIFEST_BYTES, checked_digest
from device.manifest.reading import parse_json
from device.patch import Rebuilt, rebuild
from device.store import RELEASES, RUNTIMES, Store

BLOCK = 1 << 20
LINE_LIMIT = BLOCK
IDLE_S = 30.0
"""Seconds of silence after which a session ends and releases the store's lock."""
KINDS = {"runtime": RUNTIMES, "release": RELEASES}


@dataclass(frozen=True)
class Coming:
    """An announced blob: its bytes from `offset` to `size` follow."""

    sha256: str
    size: int
    offset: int


class Input:
    """Standard input with a time limit on silence."""

    def __init__(self, stream: BinaryIO) -> None:
        self._descriptor = stream.fileno()
        with suppress(OSError):
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, BLOCK)
        self._block = bytearray(BLOCK)
        self._rest = memoryview(b"")

    def line(self) -> bytes:
        """Return the next line; b"" at the end. Bytes after it are kept for later."""
        line = bytearray()
        while len(line) < LINE_LIMIT:
            chunk = self.some(LINE_LIMIT)
            end = bytes(chunk).find(b"\n") + 1
            line += chunk[: end or len(chunk)]
            if end or not chunk:
                self._rest = chunk[end:]
                return bytes(line)

        raise DeviceError("bad_request", f"a line is longer than {LINE_LIMIT:,} bytes")

    def exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes; raise DeviceError `cut` if the session ends before."""
        taken = bytearray()
        while len(taken) < size:
            chunk = self.some(size - len(taken))
            if not chunk:
                raise DeviceError("cut", "the session ended within a message")
            taken += chunk

        return bytes(taken)

    def some(self, limit: int) -> memoryview:
        """Return up to `limit` bytes, valid until the next call; none at the end."""
        if not self._rest:
            if not select.select([self._descriptor], [], [], IDLE_S)[0]:
                raise DeviceError("cut", f"nothing came for {IDLE_S:.0f} s")
            self._rest = memoryview(self._block)[: os.readv(self._descriptor, [self._block])]

        taken = self._rest[:limit]
        self._rest = self._rest[limit:]
        return taken


def receive(argv: list[str]) -> int:
    """Serve one session: `receive --root ROOT`."""
    parser = argparse.ArgumentParser(prog="receive")
    parser.add_argument("--root", type=Path, required=True)
    store = Store(parser.parse_args(argv).root)

    with store.locked(), open(0, "rb", buffering=0, closefd=False) as stream:
        store.sweep_staging()
        session = Input(stream)
        while line := session.line():
            answer = _serve(store, session, _request(line))
            print(json.dumps(answer), flush=True)

    return 0


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = parse_json(line)
    except ValueError as error:
        raise DeviceError("bad_request", "not a JSON line") from error

    if not isinstance(request, dict):
        raise DeviceError("bad_request", "not a JSON object")
    return request


def _serve(store: Store, session: Input, request: dict[str, Any]) -> dict[str, Any]:
    try:
        if request.get("op") == "put":
            return _put(store, session, [_coming(entry) for entry in request.get("blobs", [])])
        if request.get("op") == "patch":
            return _patch(store, session, _coming(request), request)
        if request.get("op") in KINDS:
            return _stage(
                store,
                session,
                KINDS[request["op"]],
                _size(request, "size"),
                _size(request, "signature_size"),
            )
    except OSError as error:
        raise explained(store, error) from error
    raise DeviceError("bad_request", f"unknown operation `{str(request.get('op'))[:40]}`")


def _put(store: Store, session: Input, coming: list[Coming]) -> dict[str, Any]:
    refuse_full(store, coming)
    for blob in coming:
        append(store, session, blob)
    store.keep_blobs([blob.sha256 for blob in coming])
    return {"kept": len(coming)}


def append(store: Store, session: Input, blob: Coming) -> None:
    """Take the missing bytes of a blob; raise DeviceError `wrong_digest` if it is another one."""
    with _reopened(store, blob) as descriptor:
        total = _hash(store.part(blob.sha256))
        left = blob.size - blob.offset
        while left:
            chunk = session.some(left)
            if not chunk:
                raise DeviceError(
                    "cut",
                    f"the session ended {left:,} bytes before the end of blob {blob.sha256[:12]}",
                )
            total.update(chunk)
            disk.write_all(descriptor, chunk)
            left -= len(chunk)
    _refuse_wrong(store, blob, total.hexdigest())


def _patch(store: Store, session: Input, blob: Coming, request: dict[str, Any]) -> dict[str, Any]:
    checked = request.get("checked")
    old = store.blob(str(request.get("base")))
    if not isinstance(checked, int) or not 0 <= checked <= blob.offset:
        raise DeviceError("bad_request", "a patch needs `checked` between 0 and its offset")
    if not old.is_file():
        raise DeviceError(
            "missing_base", f"blob {old.name[:12]} is not on this board any more", "push again"
        )

    refuse_full(store, [blob])
    with _reopened(store, blob) as descriptor, open(old, "rb") as base:
        out = Rebuilt(descriptor, blob.offset, checked)
        wrong_at = rebuild(session, base.fileno(), out, blob.size)
        if wrong_at is not None:
            disk.truncate(descriptor, wrong_at)
            return {"wrong_at": wrong_at}

    _refuse_wrong(store, blob, out.total.hexdigest())
    store.keep_blobs([blob.sha256])
    return {"kept": 1}


@contextmanager
def _reopened(store: Store, blob: Coming) -> Iterator[int]:
    """Yield the descriptor of a blob that is arriving, cut to its offset."""
    descriptor = disk.reopen(store.part(blob.sha256))
    try:
        there = os.fstat(descriptor).st_size
        if there < blob.offset:
            raise DeviceError(
                "wrong_offset",
                f"blob {blob.sha256[:12]} has {there:,} bytes, not {blob.offset:,}",
                "push again",
            )
        disk.truncate(descriptor, blob.offset)
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_full(store: Store, coming: list[Coming]) -> None:
    """Raise DeviceError `disk_full` if there is no room for these blobs."""
    missing = sum(blob.size - blob.offset for blob in coming)
    free = _free_bytes(store)
    if missing > free:
        raise _disk_full(f"{missing:,} bytes are to come, {free:,} are free")


def _refuse_wrong(store: Store, blob: Coming, digest: str) -> None:
    if digest != blob.sha256:
        disk.unlink(store.part(blob.sha256))
        raise DeviceError(
            "wrong_digest", f"blob {blob.sha256[:12]} did not arrive as it was sent", "push again"
        )


def _hash(path: Path) -> "hashlib._Hash":
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(BLOCK):
            total.update(chunk)
    return total


def _stage(
    store: Store, session: Input, kind: str, size: int, signature_size: int
) -> dict[str, Any]:
    manifest = session.exactly(size)
    signature = session.exactly(signature_size)
    name = hashlib.sha256(manifest).hexdigest()
    store.stage(kind, name, manifest, signature)
    return {"staged": name}


def _coming(entry: Any) -> Coming:
    if not isinstance(entry, dict):
        raise DeviceError("bad_request", "a blob needs `sha256`, `size` and `offset`")

    size = entry.get("size")
    offset = entry.get("offset")
    if not isinstance(size, int) or not isinstance(offset, int) or not 0 <= offset <= size:
        raise DeviceError("bad_request", "a blob needs an offset between 0 and its size")

    return Coming(sha256=checked_digest(str(entry.get("sha256"))), size=size, offset=offset)


def _size(request: dict[str, Any], name: str) -> int:
    size = request.get(name, 0)
    if not isinstance(size, int) or not 0 <= size <= MAX_MANIFEST_BYTES:
        raise DeviceError("bad_request", f"`{name}` is not between 0 and {MAX_MANIFEST_BYTES}")
    return size


def _free_bytes(store: Store) -> int:
    return shutil.disk_usage(store.root).free


def explained(store: Store, error: OSError) -> DeviceError:
    """Return the error of a failed system call, and make room if the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        numbers = f"{_free_bytes(store):,} bytes were free"
        store.sweep_staging()
        store.sweep_blobs()
        return _disk_full(numbers)
    if error.errno == errno.EROFS:
        return read_only(store.root)
    return DeviceError(
        "disk", f"the store cannot be written: {error.strerror}: {error.filename or store.root}"
    )


def _disk_full(numbers: str) -> DeviceError:
    return DeviceError("disk_full", f"the disk is full: {numbers}", "make room, then push again")
