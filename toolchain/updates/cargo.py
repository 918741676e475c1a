"""A cargo file: a bundle or a runtime as one file, in the form that boards read.

device/manifest/update.py has the form. The file is never made as a whole in memory, nor on the disk
where it goes into an archive: its size is known before its first byte.
"""

from collections.abc import Iterator
from hashlib import sha256

from device.manifest import File
from device.manifest.update import CargoLine, cargo_line
from toolchain.cargo import Cargo
from toolchain.errors import ArtifactError

READ_BYTES = 1 << 20


def _blobs(cargo: Cargo) -> dict[str, File]:
    """Return each content once, in the manifest's order."""
    return {file.sha256: file for file in reversed(cargo.files)}


def _head(cargo: Cargo) -> bytes:
    """Return the bytes before the first file."""
    line = CargoLine(
        kind=cargo.kind,
        manifest=len(cargo.manifest),
        signature=len(cargo.signature),
        blobs=tuple((digest, file.size) for digest, file in _blobs(cargo).items()),
    )
    return cargo_line(line) + cargo.manifest + cargo.signature


def size_bytes(cargo: Cargo) -> int:
    """Return the bytes of a cargo file."""
    return len(_head(cargo)) + sum(file.size for file in _blobs(cargo).values())


def chunks(cargo: Cargo) -> Iterator[bytes]:
    """Yield a cargo file's bytes; raise ArtifactError for a file that is not what was signed.

    It is raised after the file's last byte: whoever writes must not keep what was written.
    """
    yield _head(cargo)
    for digest, file in _blobs(cargo).items():
        total = sha256()
        with (cargo.folder / file.path).open("rb") as stream:
            while chunk := stream.read(READ_BYTES):
                total.update(chunk)
                yield chunk
        if total.hexdigest() != digest:
            raise ArtifactError(
                f"{cargo.folder.name}: `{file.path}` is not what its manifest says",
                hint="package it again",
            )
