"""A cargo file: a bundle or a runtime as one file, in the form that boards read.

device/manifest/update.py has the form. The file is never made as a whole in memory, nor on the disk
where it goes into an archive: its size is known before its first byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal

from device.manifest import (
    BUNDLE_MANIFEST,
    RUNTIME_MANIFEST,
    File,
    Manifest,
    ManifestError,
    RuntimeManifest,
    read_manifest,
    read_runtime,
)
from device.manifest.signature import SUFFIX
from device.manifest.update import CargoLine, cargo_line
from toolchain.errors import ArtifactError

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class CargoFile:
    """What a cargo file holds: a signed folder."""

    kind: Literal["runtime", "release"]
    folder: Path
    files: tuple[File, ...]
    manifest: bytes
    signature: bytes

    @property
    def id(self) -> str:
        """Id of the folder on a board: the sha256 of its manifest."""
        return sha256(self.manifest).hexdigest()

    @cached_property
    def _blobs(self) -> dict[str, File]:
        """Each content once, in the manifest's order."""
        return {file.sha256: file for file in reversed(self.files)}

    @cached_property
    def head(self) -> bytes:
        """Bytes before the first file."""
        line = CargoLine(
            kind=self.kind,
            manifest=len(self.manifest),
            signature=len(self.signature),
            blobs=tuple((digest, file.size) for digest, file in self._blobs.items()),
        )
        return cargo_line(line) + self.manifest + self.signature

    @property
    def size_bytes(self) -> int:
        """Bytes of the cargo file."""
        return len(self.head) + sum(file.size for file in self._blobs.values())

    def chunks(self) -> Iterator[bytes]:
        """Yield the cargo file's bytes; raise ArtifactError for a file that is not what was signed.

        It is raised after the file's last byte: whoever writes must not keep what was written.
        """
        yield self.head
        for digest, file in self._blobs.items():
            total = sha256()
            with (self.folder / file.path).open("rb") as stream:
                while chunk := stream.read(READ_BYTES):
                    total.update(chunk)
                    yield chunk
            if total.hexdigest() != digest:
                raise ArtifactError(
                    f"{self.folder.name}: `{file.path}` is not what its manifest says",
                    hint="package it again",
                )


def release_cargo(bundle: Path) -> tuple[Manifest, CargoFile]:
    """Return a signed bundle as cargo, with its manifest; raise ArtifactError."""
    try:
        manifest = read_manifest(bundle)
    except ManifestError as error:
        raise ArtifactError(f"{bundle.name}: {error}", hint="package it again") from error
    return manifest, _cargo("release", bundle, manifest.files, BUNDLE_MANIFEST)


def runtime_cargo(runtime: Path) -> tuple[RuntimeManifest, CargoFile]:
    """Return a signed runtime as cargo, with its manifest; raise ArtifactError."""
    try:
        manifest = read_runtime(runtime)
    except ManifestError as error:
        raise ArtifactError(f"{runtime.name}: {error}") from error
    return manifest, _cargo("runtime", runtime, manifest.files, RUNTIME_MANIFEST)


def _cargo(
    kind: Literal["runtime", "release"], folder: Path, files: tuple[File, ...], name: str
) -> CargoFile:
    for file in files:
        path = folder / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            raise ArtifactError(
                f"{folder.name}: `{file.path}` is missing or has another size than its manifest "
                "says",
                hint="package it again",
            )
    return CargoFile(
        kind=kind,
        folder=folder,
        files=files,
        manifest=(folder / name).read_bytes(),
        signature=(folder / (name + SUFFIX)).read_bytes(),
    )
