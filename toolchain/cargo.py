"""A folder that travels to boards: a bundle or a runtime, with its manifest and its signature.

`push` sends what a board lacks of one; an update carries it whole (toolchain/updates/cargo.py).
"""

from dataclasses import dataclass
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
from toolchain import signing
from toolchain.errors import ArtifactError


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """A folder that travels."""

    kind: Literal["runtime", "release"]
    folder: Path
    files: tuple[File, ...]
    manifest: bytes
    signature: bytes
    """Bytes of the signature file; empty if the folder is not signed."""

    @property
    def id(self) -> str:
        """Id of the folder on a board: the sha256 of its manifest."""
        return sha256(self.manifest).hexdigest()


def manifest_of(bundle: Path) -> Manifest:
    """Return the manifest of a bundle; raise ArtifactError for one that is none."""
    try:
        return read_manifest(bundle)
    except ManifestError as error:
        raise ArtifactError(f"{bundle.name}: {error}", hint="package it again") from error


def runtime_manifest_of(runtime: Path) -> RuntimeManifest:
    """Return the manifest of a runtime; raise ArtifactError for one that is none."""
    try:
        return read_runtime(runtime)
    except ManifestError as error:
        raise ArtifactError(f"{runtime.name}: {error}") from error


def release_cargo(bundle: Path) -> tuple[Manifest, Cargo]:
    """Return a bundle that is whole, with its manifest; raise ArtifactError for any other."""
    manifest = manifest_of(bundle)
    return manifest, _cargo("release", bundle, manifest.files, BUNDLE_MANIFEST)


def runtime_cargo(runtime: Path) -> tuple[RuntimeManifest, Cargo]:
    """Return a runtime that is whole, with its manifest; raise ArtifactError for any other."""
    manifest = runtime_manifest_of(runtime)
    return manifest, _cargo("runtime", runtime, manifest.files, RUNTIME_MANIFEST)


def _cargo(
    kind: Literal["runtime", "release"], folder: Path, files: tuple[File, ...], name: str
) -> Cargo:
    for file in files:
        path = folder / file.path
        size = path.stat().st_size if path.is_file() else -1
        if size != file.size:
            seen = (
                "is missing" if size < 0 else f"has {size:,} bytes, the manifest says {file.size:,}"
            )
            raise ArtifactError(f"{folder.name}: `{file.path}` {seen}", hint="package it again")

    signature = folder / (name + SUFFIX)
    return Cargo(
        kind=kind,
        folder=folder,
        files=files,
        manifest=(folder / name).read_bytes(),
        signature=signature.read_bytes() if signing.signature_of(folder / name) else b"",
    )
