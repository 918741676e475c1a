"""The files of a store: blobs, and releases and runtimes, which are folders of links to blobs.

The rule: everything that a name stands for is on the disk before the name is (fsync of the files,
then of the folder, then the rename).
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from device import disk
from device.disk import make_folder, remove, sync, write_new
from device.errors import DeviceError
from device.locks import holder, locked
from device.manifest import (
    BUNDLE_MANIFEST,
    RUNTIME_MANIFEST,
    File,
    Manifest,
    ManifestError,
    RuntimeManifest,
    checked_digest,
    checked_path,
    read_manifest,
    read_runtime,
    sha256_of,
    verify_files,
)

RELEASES, RUNTIMES = "releases", "runtimes"
MANIFEST_OF = {RELEASES: BUNDLE_MANIFEST, RUNTIMES: RUNTIME_MANIFEST}
_MISSING = {RELEASES: "missing_release", RUNTIMES: "missing_runtime"}


class Contents:
    """The files of one store, by its root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        for name in ("blobs", RUNTIMES, RELEASES, "deployments", "run"):
            make_folder(self.root / name)
        disk.keep_private(self.root)

    @contextmanager
    def locked(self, wait_s: float = 1.0) -> Iterator[None]:
        """Hold the store's lock.

        Raise DeviceError `busy` if another change keeps it longer than `wait_s`.
        """
        with locked(self.root / "lock", wait_s, self._busy):
            yield

    def changing(self) -> "dict[str, Any] | None":
        """Return verb, process and seconds of the change that is under way; None without one."""
        return holder(self.root / "lock")

    def _busy(self) -> DeviceError:
        other = self.changing() or {}
        who = ": `{verb}`, process {pid}, for {seconds} s".format(**other) if other else ""
        return DeviceError(
            "busy",
            f"another push or activation is under way on this board{who}",
            "wait for it; one that was cut off lets go within a minute",
        )

    def blob(self, digest: str) -> Path:
        """Return the path of a blob, whether it exists or not."""
        return self.root / "blobs" / checked_digest(digest)

    def part(self, digest: str) -> Path:
        """Return the path of a blob that is still arriving."""
        return self.root / "blobs" / f".{checked_digest(digest)}.part"

    def folder(self, kind: str, name: str) -> Path:
        """Return the folder of a release or a runtime."""
        return self.root / kind / checked_digest(name)

    def present(self, kind: str, name: str) -> Path:
        """Return the folder of a release or a runtime.

        Raise DeviceError `missing_release` or `missing_runtime` if it is not on the board.
        """
        folder = self.folder(kind, name)
        if not folder.is_dir():
            raise DeviceError(
                _MISSING[kind],
                f"there is no {kind[:-1]} {name[:12]} on this board",
                "push it again",
            )

        return folder

    def keep_blobs(self, digests: list[str]) -> None:
        """Give blobs that arrived whole their names."""
        for digest in digests:
            sync(self.part(digest))
        for digest in digests:
            disk.replace(self.part(digest), self.blob(digest))
        sync(self.root / "blobs")

    def stage(self, kind: str, name: str, manifest: bytes, signature: bytes) -> None:
        """Make a release or a runtime from blobs.

        Raise DeviceError `missing_blob` if one is not here.
        """
        final = self.folder(kind, name)
        staged = final.with_name(f".{name}.part")
        remove(staged)
        disk.mkdir(staged)
        write_new(staged / MANIFEST_OF[kind], manifest)
        if signature:
            write_new(staged / (MANIFEST_OF[kind] + ".sig"), signature)

        self._link(staged, _read(kind, staged).files)
        if final.is_dir():
            self._mend(final, staged)
        else:
            disk.replace(staged, final)

        sync(final.parent)

    def read_release(self, name: str) -> Manifest:
        """Return a release's manifest."""
        return read_manifest(self.present(RELEASES, name))

    def read_runtime(self, name: str) -> RuntimeManifest:
        """Return a runtime's manifest."""
        return read_runtime(self.present(RUNTIMES, name))

    def files_of(self, kind: str, name: str) -> tuple[File, ...]:
        """Return the files that the manifest of a release or a runtime names."""
        return _read(kind, self.present(kind, name)).files

    def check(self, kind: str, name: str) -> None:
        """Compare every byte of a release or a runtime with its manifest.

        Raise DeviceError with the fault.
        """
        folder = self.present(kind, name)
        try:
            if sha256_of(folder / MANIFEST_OF[kind]) != name:
                raise ManifestError(
                    "wrong_name", f"`{MANIFEST_OF[kind]}` is not what its name says"
                )
            files = _read(kind, folder).files
            verify_files(folder, files, MANIFEST_OF[kind])
        except ManifestError as error:
            raise DeviceError(
                error.code, f"{kind[:-1]} {name[:12]}: {error}", "push it again"
            ) from error
        except OSError as error:
            message = f"{kind[:-1]} {name[:12]}: cannot be read: {error.strerror}"
            raise DeviceError(
                "unreadable", message, "look at dmesg: the card may be dying"
            ) from error

    def sweep_blobs(self) -> None:
        """Delete the blobs, whole or not, that no release and no runtime has."""
        for blob in list((self.root / "blobs").iterdir()):
            seen = blob.lstat()
            if seen.st_nlink == 1 or not stat.S_ISREG(seen.st_mode):
                remove(blob)

    def sweep_staging(self) -> None:
        """Delete what an interrupted `stage` left behind; parts of blobs stay, to be resumed."""
        for kind in (RELEASES, RUNTIMES):
            for folder in list((self.root / kind).glob(".*")):
                remove(folder)

    def size_bytes(self) -> int:
        """Return the bytes of all blobs, whole or not."""
        return sum(blob.lstat().st_size for blob in (self.root / "blobs").iterdir())

    def _link(self, staged: Path, files: tuple[File, ...]) -> None:
        folders = {staged}
        for entry in files:
            link = staged / checked_path(entry.path)
            for parent in link.relative_to(staged).parents:
                make_folder(staged / parent)
                folders.add(staged / parent)
            try:
                disk.link(self.blob(entry.sha256), link)
            except FileNotFoundError as error:
                raise DeviceError(
                    "missing_blob", f"`{entry.path}` did not arrive", "push it again"
                ) from error

        for folder in sorted(folders, reverse=True):
            sync(folder)

    def _mend(self, folder: Path, staged: Path) -> None:
        """Replace the files of a folder by those of a staged one, each by one rename.

        All other files are deleted. The folder may be in use meanwhile.
        """
        paths = {path.relative_to(staged) for path in staged.rglob("*") if not path.is_dir()}
        for path in sorted(paths):
            make_folder((folder / path).parent)
            disk.replace(staged / path, folder / path)

        keep_only(folder, paths)
        for path in [*folder.rglob("*"), folder]:
            if path.is_dir():
                sync(path)

        remove(staged)


def keep_only(folder: Path, paths: "set[Path]") -> None:
    """Delete every file whose path (relative to the folder) is not one of these."""
    for path in list(folder.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(folder) not in paths:
            disk.unlink(path)


def discard(folder: Path) -> None:
    """Delete a release or a runtime."""
    # Its name goes first, so that at no moment a name stands for an incomplete folder.
    if folder.is_dir():
        doomed = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.part")
        if doomed != folder:
            remove(doomed)
            disk.replace(folder, doomed)
        remove(doomed)


def _read(kind: str, folder: Path) -> "Manifest | RuntimeManifest":
    return read_manifest(folder) if kind == RELEASES else read_runtime(folder)
