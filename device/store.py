"""The store on the board: blobs named by their sha256, releases and runtimes made of links to them, and the switch.

    blobs/<sha256>                 a file's bytes; `.<sha256>.part` while they come
    runtimes/<id>/  releases/<id>/ folders of hard links to blobs; id is the sha256 of the manifest's bytes
    tuned/<release>.json           how the release runs fastest on this board (tuned.py)
    leads/<release>/               what the release's model has read of its lead (leads.py)
    deployments/<release>.json     the runtime, port and kind of service of a release
    current, previous              links to releases, switched by rename
    state.json, state.copy.json    the last deployment that was healthy, and the one before it: what a cut switch is taken back to
    stopped                        is there while the owner has stopped the service
    agents/<sha256>.pyz            the program that runs the service; its name is its digest
    counters.json, counters.copy.json   the highest counter of each name that was ever committed (counters.py)
    allowed_signers and others     who may sign for this board (trust.py)

The rule: everything a name stands for is on the disk (fsync of the files, then of the folder) before the name is.
The other rule: what is read here is bounded and typed, and what has rotted is as if it were not there (docs/trust.md).
"""

import argparse
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from device import disk
from device.counters import Counters
from device.disk import make_folder, read_json, remove, sync, write_json, write_new
from device.errors import DeviceError
from device.manifest import (
    BUNDLE_MANIFEST,
    RUNTIME_MANIFEST,
    File,
    Manifest,
    ManifestError,
    RuntimeManifest,
    checked_digest,
    checked_path,
    paths_of,
    read_manifest,
    read_runtime,
    sha256_of,
    verify_files,
)

RELEASES, RUNTIMES, LEADS, TUNED = "releases", "runtimes", "leads", "tuned"
STATE_COPIES = ("state.json", "state.copy.json")
"""The second is written after the first is on the disk, and read where the first has rotted."""
SERVICES = ("systemd", "supervised")
MANIFEST_OF = {RELEASES: BUNDLE_MANIFEST, RUNTIMES: RUNTIME_MANIFEST}
_MISSING = {RELEASES: "missing_release", RUNTIMES: "missing_runtime"}


@dataclass(frozen=True)
class Deployment:
    """How a release is run."""

    release: str
    runtime: str
    port: int
    service: str
    """`systemd` or `supervised`."""
    unsigned: bool = False
    """Whether it was told to run without a signature."""
    host_names: tuple[str, ...] = ()
    """Names by which the service may be called, beside its addresses and the board's own name."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the service."""


class Store:
    """One store, by its folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        for name in ("blobs", RUNTIMES, RELEASES, "deployments", "run"):
            make_folder(self.root / name)
        disk.keep_private(self.root)

    @contextmanager
    def locked(self, wait_s: float = 1.0) -> Iterator[None]:
        """Keep every other change out; raise DeviceError `busy` if one is under way and stays so."""
        with open(disk.open_lock(self.root / "lock")) as stream:
            deadline = time.monotonic() + wait_s
            while not _lock(stream):
                if time.monotonic() >= deadline:
                    hint = "wait for it; one that was cut off lets go within a minute"
                    raise DeviceError(
                        "busy", "another push or activation is under way on this board", hint
                    )
                time.sleep(0.02)
            yield

    def blob(self, digest: str) -> Path:
        """Return where a blob is or will be."""
        return self.root / "blobs" / checked_digest(digest)

    def part(self, digest: str) -> Path:
        """Return where a blob is kept while it comes."""
        return self.root / "blobs" / f".{checked_digest(digest)}.part"

    def folder(self, kind: str, name: str) -> Path:
        """Return the folder of a release or a runtime."""
        return self.root / kind / checked_digest(name)

    def present(self, kind: str, name: str) -> Path:
        """Return the folder of a release or a runtime that is here; raise DeviceError `missing_release` or `missing_runtime`."""
        folder = self.folder(kind, name)
        if not folder.is_dir():
            raise DeviceError(
                _MISSING[kind],
                f"there is no {kind[:-1]} {name[:12]} on this board",
                "push it again",
            )
        return folder

    def keep_blobs(self, digests: list[str]) -> None:
        """Give blobs that came whole their names."""
        for digest in digests:
            sync(self.part(digest))
        for digest in digests:
            disk.replace(self.part(digest), self.blob(digest))
        sync(self.root / "blobs")

    def stage(self, kind: str, name: str, manifest: bytes, signature: bytes) -> None:
        """Make a release or a runtime of blobs that are here; raise DeviceError `missing_blob` if one is not."""
        final = self.folder(kind, name)
        staged = final.with_name(f".{name}.part")
        remove(staged)
        disk.mkdir(staged)
        write_new(staged / MANIFEST_OF[kind], manifest)
        if signature:
            write_new(staged / (MANIFEST_OF[kind] + ".sig"), signature)
        self._link(staged, (read_manifest if kind == RELEASES else read_runtime)(staged).files)
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

    def check(self, kind: str, name: str) -> None:
        """Compare every byte of a release or a runtime with its manifest; raise DeviceError with what is wrong."""
        folder = self.present(kind, name)
        try:
            if sha256_of(folder / MANIFEST_OF[kind]) != name:
                raise ManifestError(
                    "wrong_name", f"`{MANIFEST_OF[kind]}` is not what its name says"
                )
            files = (read_manifest if kind == RELEASES else read_runtime)(folder).files
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

    def verify(self, kind: str, name: str) -> None:
        """Do as `check`; what is damaged is forgotten, so that it will be sent again."""
        try:
            self.check(kind, name)
        except DeviceError:
            self._forget_damaged(kind, name)
            raise

    def settle(self, deployment: Deployment) -> None:
        """Put on the disk what a release and its runtime are made of: who brought them may have been killed before it could."""
        for kind, name in ((RELEASES, deployment.release), (RUNTIMES, deployment.runtime)):
            folder = self.folder(kind, name)
            for path in [*folder.rglob("*"), folder, folder.parent]:
                sync(path)

    def current(self) -> Deployment | None:
        """Return what is switched on."""
        return self._deployed("current")

    def previous(self) -> Deployment | None:
        """Return what `rollback` goes back to."""
        return self._deployed("previous")

    def confirmed(self) -> Deployment | None:
        """Return the last deployment that was healthy; not the current one if an activation was cut short."""
        return self.current() if self._state_is_lost() else self._present_deployment(self.state())

    def state(self) -> dict[str, Any]:
        """Return what was noted at the last commit, nothing if there was none."""
        noted = (read_json(self.root / copy) or {} for copy in STATE_COPIES)
        return next((fields for fields in noted if _typed_deployment(fields)), {})

    def recover(self) -> None:
        """Take `current` and `previous` back to the last commit, where a switch was cut short.

        Where both notes of that commit have rotted nothing is known that is better than the names as they are.
        """
        if self._state_is_lost():
            return
        confirmed, previous = self.confirmed(), self._way_back()
        if (self.current(), self.previous()) != (confirmed, previous):
            self.switch(confirmed, previous)

    def _state_is_lost(self) -> bool:
        return not self.state() and any(os.path.lexists(self.root / copy) for copy in STATE_COPIES)

    def _way_back(self) -> Deployment | None:
        """Return the deployment before the last one that was healthy; its own file may have rotted since."""
        state = self.state()
        noted = state.get("way_back")
        if isinstance(noted, dict) and (way_back := self._present_deployment(noted)):
            return way_back
        return self._deployment(str(state.get("previous")))

    def switch(self, wanted: Deployment | None, way_back: Deployment | None) -> None:
        """Make `wanted` current and `way_back` previous, each by one rename; no release is its own way back.

        What is committed decides after a power cut: that these names are on the disk is as late as that.
        """
        if wanted:
            self._note_deployment(wanted)
            way_back = None if way_back and way_back.release == wanted.release else way_back
        if way_back:
            self._note_deployment(way_back)
        for name, deployment in (("previous", way_back), ("current", wanted)):
            self._point(name, deployment)

    def commit(self, deployment: Deployment, measured: dict[str, Any] | None = None) -> None:
        """Note that the current deployment is healthy, and what was measured; its counter is the lowest that may come after it."""
        manifest = self.read_release(deployment.release)
        Counters(self.root).keep(manifest.name, manifest.counter)
        previous = self.previous()
        noted = {
            "since": int(time.time()),
            "previous": previous.release if previous else None,
            "way_back": asdict(previous) if previous else None,
            "measured": measured or {},
        }
        remove(self.root / "stopped")
        for copy in STATE_COPIES:
            write_json(self.root / copy, dict(asdict(deployment), **noted))

    def mend_copies(self) -> None:
        """Write the notes of the last commit again where one of their copies has rotted."""
        state = self.state()
        if state and any(read_json(self.root / copy) != state for copy in STATE_COPIES):
            for copy in STATE_COPIES:
                write_json(self.root / copy, state)
        Counters(self.root).mend()
        self.recover()

    @property
    def is_stopped(self) -> bool:
        """Whether the owner stopped the service: then nothing but the owner starts it."""
        return os.path.lexists(self.root / "stopped")

    def note_stopped(self) -> None:
        """Keep that the owner stopped the service, until a release is committed again."""
        write_json(self.root / "stopped", {"since": int(time.time())})

    def lowest_counter(self, name: str) -> int:
        """Return the counter under which no release of a name may come: the highest that was ever committed.

        Should both copies be lost, the release that is healthy now still bears witness.
        """
        lowest, confirmed = Counters(self.root).read().get(name, 0), self.confirmed()
        with suppress(ManifestError):
            manifest = self.read_release(confirmed.release) if confirmed else None
            return max(lowest, manifest.counter) if manifest and manifest.name == name else lowest
        return lowest

    def sweep(self, coming: Deployment | None = None) -> None:
        """Delete what neither the current, the previous, the last healthy nor the coming deployment needs."""
        kept = [d for d in (self.current(), self.previous(), self.confirmed(), coming) if d]
        named = {RELEASES: {d.release for d in kept}, RUNTIMES: {d.runtime for d in kept}}
        for kind, names in named.items():
            for folder in list((self.root / kind).iterdir()):
                if folder.name not in names:
                    _discard(folder)
        for folder in list((self.root / LEADS).glob("*")):
            if folder.name not in named[RELEASES]:
                remove(folder)
        for record in [*(self.root / "deployments").iterdir(), *(self.root / TUNED).glob("*")]:
            if record.stem not in named[RELEASES]:
                remove(record)
        remove(self.root / "run" / "pycache")  # earlier toolchains executed byte code from there
        self.sweep_blobs()

    def sweep_blobs(self) -> None:
        """Delete the blobs, whole or not, that no release and no runtime holds."""
        for blob in list((self.root / "blobs").iterdir()):
            seen = blob.lstat()
            if seen.st_nlink == 1 or not stat.S_ISREG(seen.st_mode):
                remove(blob)

    def sweep_staging(self) -> None:
        """Delete what interrupted staging left behind; parts of blobs stay, to be resumed."""
        for kind in (RELEASES, RUNTIMES):
            for folder in list((self.root / kind).glob(".*")):
                remove(folder)

    def size_bytes(self) -> int:
        """Return the bytes that blobs take, whole or not."""
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
        """Put the files of a staged folder into one that may be in use, each by one rename, and take what is too much away."""
        wanted = {path.relative_to(staged) for path in staged.rglob("*") if not path.is_dir()}
        for path in sorted(wanted):
            make_folder((folder / path).parent)
            disk.replace(staged / path, folder / path)
        _keep_only(folder, wanted)
        for path in [*folder.rglob("*"), folder]:
            if path.is_dir():
                sync(path)
        remove(staged)

    def _forget_damaged(self, kind: str, name: str) -> None:
        folder = self.folder(kind, name)
        try:
            files = (self.read_release if kind == RELEASES else self.read_runtime)(name).files
        except (DeviceError, ManifestError):
            _discard(folder)
            return
        for entry in files:
            blob = self.blob(entry.sha256)
            if blob.is_file() and sha256_of(blob) != entry.sha256:
                disk.unlink(blob)
        current = self.current()
        if not current or folder.name not in (current.release, current.runtime):
            _discard(folder)
        else:
            _keep_only(folder, set(map(Path, paths_of(files, MANIFEST_OF[kind]))))

    def _deployment_file(self, release: str) -> Path:
        return self.root / "deployments" / f"{checked_digest(release)}.json"

    def _note_deployment(self, deployment: Deployment) -> None:
        if self._deployment(deployment.release) != deployment:
            write_json(self._deployment_file(deployment.release), asdict(deployment))

    def _deployment(self, release: str) -> Deployment | None:
        try:
            return self._present_deployment(read_json(self._deployment_file(release)) or {})
        except ManifestError:
            return None

    def _present_deployment(self, fields: dict[str, Any]) -> Deployment | None:
        """Return the deployment that a file of the store names, None where it is none or its release is not here."""
        deployment = _typed_deployment(fields)
        if deployment and self.folder(RELEASES, deployment.release).is_dir():
            return deployment
        return None

    def _deployed(self, link: str) -> Deployment | None:
        try:
            return self._deployment(os.path.basename(os.readlink(self.root / link)))
        except OSError:
            return None

    def _point(self, name: str, deployment: Deployment | None) -> None:
        link = self.root / name
        if deployment is None:
            remove(link)
        elif self._deployed(name) != deployment:
            fresh = self.root / f".{name}.part"
            remove(fresh)
            disk.symlink(os.path.join(RELEASES, deployment.release), fresh)
            sync(self.root)
            disk.replace(fresh, link)


def _typed_deployment(fields: dict[str, Any]) -> Deployment | None:
    """Return the deployment that fields spell, None where one of them is missing or cannot be."""
    known: dict[str, Any] = {
        name: fields[name] for name in Deployment.__dataclass_fields__ if name in fields
    }
    try:
        for name in ("host_names", "cors_origins"):
            known[name] = tuple(known.get(name, ()))
        deployment = Deployment(**known)
        for digest in (deployment.release, deployment.runtime):
            checked_digest(digest)
    except (ManifestError, TypeError):
        return None
    sound = (
        type(deployment.port) is int
        and 0 < deployment.port < 1 << 16
        and deployment.service in SERVICES
        and isinstance(deployment.unsigned, bool)
        and all(isinstance(each, str) for each in deployment.host_names)
        and all(isinstance(each, str) for each in deployment.cors_origins)
    )
    return deployment if sound else None


def leads_of(bundle: Path) -> Path | None:
    """Return where the states of a release's lead are kept; None for a bundle that is in no store."""
    return _beside(bundle, LEADS, "")


def tuned_of(bundle: Path) -> Path | None:
    """Return where the settings of a release on this board are kept; None for a bundle that is in no store."""
    return _beside(bundle, TUNED, ".json")


def _beside(bundle: Path, kind: str, suffix: str) -> Path | None:
    release = bundle.absolute()
    return (
        release.parent.parent / kind / (release.name + suffix)
        if release.parent.name == RELEASES
        else None
    )


def verify(argv: list[str]) -> int:
    """Check every byte of the current release and its runtime: `verify --root ROOT`."""
    parser = argparse.ArgumentParser(prog="verify")
    parser.add_argument("--root", type=Path, required=True)
    store = Store(parser.parse_args(argv).root)
    current = store.current()
    if not current:
        raise DeviceError("nothing_deployed", "there is no release on this board", "push one")
    store.verify(RELEASES, current.release)
    store.verify(RUNTIMES, current.runtime)
    print(json.dumps({"verified": current.release}))
    return 0


def _keep_only(folder: Path, wanted: "set[Path]") -> None:
    """Delete every file but these, named from the folder."""
    for path in list(folder.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and path.relative_to(folder) not in wanted:
            disk.unlink(path)


def _discard(folder: Path) -> None:
    """Delete a release or a runtime: its name first, so that at no moment it stands for less than it says."""
    if folder.is_dir():
        doomed = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.part")
        if doomed != folder:
            remove(doomed)
            disk.replace(folder, doomed)
        remove(doomed)


def _lock(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
