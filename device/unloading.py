"""From a cargo file into the store: a release or a runtime that came without a line to the host.

The file is read once, from its first byte to its last. Files that the store holds already are
passed over, and one that was cut by a power cut goes on where it stopped, so the same file can be
unloaded again after anything.
"""

import hashlib
from typing import BinaryIO

from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.update import CargoLine, read_cargo_line
from device.receive import BLOCK, KINDS, Coming, Input, append, explained, refuse_full
from device.store import Store


def unload(store: Store, stream: BinaryIO, kind: str, expected: str) -> None:
    """Make the release or runtime `expected` of a cargo file; raise DeviceError if it is none."""
    session = Input(stream)
    line = read_cargo_line(session.line())
    if line.kind != kind:
        raise ManifestError("bad_cargo", f"the file holds a {line.kind}, not a {kind}")

    manifest = session.exactly(line.manifest)
    signature = session.exactly(line.signature)
    if hashlib.sha256(manifest).hexdigest() != expected:
        raise DeviceError(
            "wrong_digest", f"the file holds another {kind} than {expected[:12]}", _ANEW
        )

    with store.locked():
        store.sweep_staging()
        try:
            _take(store, session, line)
            store.stage(KINDS[kind], expected, manifest, signature)
        except OSError as error:
            raise explained(store, error) from error


_ANEW = "the update was changed or damaged on its way: make it anew"


def _take(store: Store, session: Input, line: CargoLine) -> None:
    """Take the files that the store lacks; raise DeviceError at the first that is not itself."""
    coming = {
        digest: Coming(sha256=digest, size=size, offset=_arrived(store, digest, size))
        for digest, size in line.blobs
        if not store.blob(digest).is_file()
    }
    refuse_full(store, list(coming.values()))
    for digest, size in line.blobs:
        blob = coming.get(digest)
        _pass_over(session, blob.offset if blob else size)
        if blob:
            append(store, session, blob)
            store.keep_blobs([digest])

    if session.some(1):
        raise ManifestError("bad_cargo", "bytes follow the last file of the cargo")


def _arrived(store: Store, digest: str, size: int) -> int:
    """Return the bytes of a blob that arrived before a cut."""
    part = store.part(digest)
    return min(part.lstat().st_size, size) if part.is_file() else 0


def _pass_over(session: Input, count: int) -> None:
    while count:
        chunk = session.some(min(count, BLOCK))
        if not chunk:
            raise DeviceError("cut", "the cargo ends within a file", _ANEW)
        count -= len(chunk)
