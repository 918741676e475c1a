"""The store on the board: its files, and the switch from one release to the next.

    blobs/<sha256>                 a file's bytes; `.<sha256>.part` while they arrive
    runtimes/<id>/  releases/<id>/ folders of hard links to blobs; id is the manifest's sha256
    tuned/<release>.json           how the release runs fastest on this board (tuned.py)
    prefixes/<release>/            the saved states of the release's prefix (prefixes.py)
    deployments/<release>.json     the runtime, port and kind of service of a release
    current, previous              links to releases, switched by rename
    state.json, state.copy.json    the last healthy deployment and the one before it
    stopped                        exists while the owner has stopped the service
    agents/<sha256>.pyz            the program that runs the service; its name is its digest
    counters.json, counters.copy.json
                                   the highest committed counter of each name (counters.py)
    allowed_signers and others     who may sign for this board (signers.py)
    feedback/                      what people think of answers (feedback.py)

A switch that was cut short is undone by what state.json says. The rule: everything that a name
stands for is on the disk before the name is (fsync of the files, then of the folder). The other
rule: whatever is read here is bounded and typed, and a rotten file counts as missing
(docs/trust.md).
"""

import os
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from device import disk
from device.contents import MANIFEST_OF as MANIFEST_OF
from device.contents import RELEASES as RELEASES
from device.contents import RUNTIMES as RUNTIMES
from device.contents import Contents, discard, keep_only
from device.counters import Counters
from device.deployment import SERVICES as SERVICES
from device.deployment import Deployment as Deployment
from device.deployment import read_deployment
from device.disk import read_json, remove, sync, write_json
from device.errors import DeviceError
from device.manifest import ManifestError, checked_digest, paths_of, sha256_of

PREFIXES = "prefixes"
TUNED = "tuned"
STATE_COPIES = ("state.json", "state.copy.json")
"""Files with the state."""
# The second is written after the first is on the disk, and read if the first has rotted.


class Store(Contents):
    """One store, by its folder: its contents, and what is switched on."""

    def verify(self, kind: str, name: str) -> None:
        """Check a release or a runtime; forget damaged files, so that they are sent again."""
        try:
            self.check(kind, name)
        except DeviceError:
            self._forget_damaged(kind, name)
            raise

    def settle(self) -> None:
        """Put all that was changed here on the disk, before a name stands for it."""
        # The transfer of a release or a runtime may have been killed before it could. Most of their
        # files are old, yet an fsync of each has the disk empty its own cache: 441 of them took
        # 1.2 s, and this 0.02.
        disk.sync_everything(self.root)

    def current(self) -> Deployment | None:
        """Return the deployment that is switched on."""
        return self._deployed("current")

    def previous(self) -> Deployment | None:
        """Return the deployment that `rollback` returns to."""
        return self._deployed("previous")

    def confirmed(self) -> Deployment | None:
        """Return the last deployment that was healthy.

        It is not the current one if an activation was cut short.
        """
        return self.current() if self._state_is_lost() else self._present_deployment(self.state())

    def state(self) -> dict[str, Any]:
        """Return the notes of the last commit; empty if there was none."""
        noted = (read_json(self.root / copy) or {} for copy in STATE_COPIES)
        return next((fields for fields in noted if read_deployment(fields)), {})

    def recover(self) -> None:
        """Restore `current` and `previous` of the last commit after a switch that was cut short.

        If both copies of its notes have rotted, the names stay: nothing better is known.
        """
        if self._state_is_lost():
            return

        confirmed = self.confirmed()
        previous = self._way_back()
        if (self.current(), self.previous()) != (confirmed, previous):
            self.switch(confirmed, previous)

    def _state_is_lost(self) -> bool:
        return not self.state() and any(os.path.lexists(self.root / copy) for copy in STATE_COPIES)

    def _way_back(self) -> Deployment | None:
        """Return the deployment before the last healthy one.

        Its own file may have rotted since; then it is read from the notes.
        """
        state = self.state()
        noted = state.get("way_back")
        if isinstance(noted, dict) and (way_back := self._present_deployment(noted)):
            return way_back
        return self._deployment(str(state.get("previous")))

    def switch(self, requested: Deployment | None, way_back: Deployment | None) -> None:
        """Make `requested` current and `way_back` previous, each by one rename.

        A release is never its own way back. After a power cut the commit decides, so these names
        may be lost until then.
        """
        if requested:
            self._note_deployment(requested)
            way_back = None if way_back and way_back.release == requested.release else way_back

        if way_back:
            self._note_deployment(way_back)

        for name, deployment in (("previous", way_back), ("current", requested)):
            self._point(name, deployment)

    def commit(self, deployment: Deployment, measured: dict[str, Any] | None = None) -> None:
        """Note that the current deployment is healthy, and its measured speed.

        From now on its counter is the lowest that is accepted.
        """
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
        """Write the notes of the last commit again if one of their copies has rotted."""
        state = self.state()
        if state and any(read_json(self.root / copy) != state for copy in STATE_COPIES):
            for copy in STATE_COPIES:
                write_json(self.root / copy, state)

        Counters(self.root).mend()
        self.recover()

    @property
    def is_stopped(self) -> bool:
        """Whether the owner stopped the service; then only the owner starts it."""
        return os.path.lexists(self.root / "stopped")

    def note_stopped(self) -> None:
        """Note that the owner stopped the service, until a release is committed again."""
        write_json(self.root / "stopped", {"since": int(time.time())})

    def lowest_counter(self, name: str) -> int:
        """Return the lowest counter that a release of this name may have.

        It is the highest that was ever committed.

        If both copies of the counters are lost, the counter of the current healthy release counts.
        """
        lowest = Counters(self.root).read().get(name, 0)
        confirmed = self.confirmed()
        with suppress(ManifestError):
            manifest = self.read_release(confirmed.release) if confirmed else None
            return max(lowest, manifest.counter) if manifest and manifest.name == name else lowest

        return lowest

    def sweep(self, coming: Deployment | None = None) -> None:
        """Delete all that no current, previous, last healthy or coming deployment needs."""
        kept = [d for d in (self.current(), self.previous(), self.confirmed(), coming) if d]
        named = {RELEASES: {d.release for d in kept}, RUNTIMES: {d.runtime for d in kept}}

        for kind, names in named.items():
            for folder in list((self.root / kind).iterdir()):
                if folder.name not in names:
                    discard(folder)

        for folder in list((self.root / PREFIXES).glob("*")):
            if folder.name not in named[RELEASES]:
                remove(folder)

        deployments = list((self.root / "deployments").iterdir())
        settings = list((self.root / TUNED).glob("*"))
        for record in deployments + settings:
            if record.stem not in named[RELEASES]:
                remove(record)

        remove(self.root / "run" / "pycache")  # earlier toolchains executed byte code from there
        remove(self.root / "leads")  # earlier toolchains kept the states of prefixes there
        self.sweep_blobs()

    def _forget_damaged(self, kind: str, name: str) -> None:
        folder = self.folder(kind, name)
        try:
            files = self.files_of(kind, name)
        except (DeviceError, ManifestError):
            discard(folder)
            return

        for entry in files:
            blob = self.blob(entry.sha256)
            if blob.is_file() and sha256_of(blob) != entry.sha256:
                disk.unlink(blob)

        current = self.current()
        if not current or folder.name not in (current.release, current.runtime):
            discard(folder)
        else:
            keep_only(folder, set(map(Path, paths_of(files, MANIFEST_OF[kind]))))

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
        """Return the deployment in a file of the store.

        None if it is broken or its release is not here.
        """
        deployment = read_deployment(fields)
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


def prefixes_of(bundle: Path) -> Path | None:
    """Return the folder of a release's prefix states; None for a bundle outside of a store."""
    return beside(bundle, PREFIXES, bundle.absolute().name)


def tuned_of(bundle: Path) -> Path | None:
    """Return the file of a release's settings on this board.

    None for a bundle outside of a store.
    """
    return beside(bundle, TUNED, f"{bundle.absolute().name}.json")


def beside(bundle: Path, *names: str) -> Path | None:
    """Return a path in the store that a release lies in; None for a bundle outside of a store."""
    release = bundle.absolute()
    return release.parent.parent.joinpath(*names) if release.parent.name == RELEASES else None
