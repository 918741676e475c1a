"""The verb `mender`: a Mender update module, called once for each state of an update.

Mender calls it with a state and a folder, and reads its exit code and what it prints
(mendersoftware/mender, Documentation/update-modules-v3-file-api.md). The switch is ours: it checks
signatures and goldens and goes back by itself. So `ArtifactRollback` finds mostly nothing to do.
Questions are answered by the module's lines of shell (toolchain/updates/program.py).
The rule: what ran before the update is noted in the update's own folder before anything changes.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from device import disk, service
from device.deployment import read_deployment
from device.errors import DeviceError
from device.installing import (
    Owner,
    become,
    call,
    install_files,
    open_files,
    open_store,
    read_owner,
    words_of,
)
from device.manifest import ManifestError
from device.manifest.reading import parse_json, read_bounded
from device.manifest.update import MAX_UPDATE_BYTES, UPDATE, read_update
from device.store import Deployment, Store

BEFORE = "before.json"
"""File in the update's `tmp` with the deployment that ran before it."""


def mender(argv: list[str]) -> int:
    """Do what one state of an update asks; an unknown state is none of ours."""
    if len(argv) != 2:
        raise DeviceError("usage", "a state of a Mender update, and its folder")

    state, folder = argv
    try:
        _STATES.get(state, _nothing)(Path(folder))
    except (DeviceError, ManifestError) as error:
        # Mender keeps what a module writes to stderr in the deployment's log.
        print(*words_of(error), sep="\n", file=sys.stderr)
        return 1
    return 0


def _install(folder: Path) -> None:
    """Note what runs, then take the update in and switch to it."""
    owner = read_owner()
    files = open_files(folder / "files")
    note = _open_note(folder / "tmp")
    become(owner)
    store = open_store()
    _write_note(note, store.confirmed())
    install_files(store, files, owner)


def _commit(folder: Path) -> None:
    """Make sure that what the update brought is what runs, and is healthy."""
    release = _release(folder)
    become(read_owner())
    seen = call(open_store(), "status")
    running = (seen["release"] or {}).get("release")
    if running != release or not seen["confirmed"]:
        raise DeviceError("unhealthy", f"release {release[:12]} is not what runs on this board")
    if not seen["service"]["healthy"]:
        raise DeviceError("unhealthy", f"release {release[:12]} does not answer")


def _roll_back(folder: Path) -> None:
    """Run what ran before the update, if the board has not gone back by itself."""
    release = _release(folder)
    owner, noted = read_owner(), _read_note(folder / "tmp")
    become(owner)
    if noted is None:
        return  # the update ended before anything was changed

    before = read_deployment(noted)
    store = open_store()
    confirmed = store.confirmed()
    if confirmed and confirmed.release == release and (not before or before.release != release):
        _take_back(store, before)
    elif before and not store.is_stopped and not _runs(store, before):
        _finish_way_back(store, before, owner)


def _take_back(store: Store, before: "Deployment | None") -> None:
    """Run the release before again; without one, stop what the update brought."""
    if not before:
        call(store, "stop")
        return
    now = call(store, "rollback")["release"]
    if not now or now["release"] != before.release:
        raise DeviceError("no_previous", f"release {before.release[:12]} is not on this board")


def _runs(store: Store, before: Deployment) -> bool:
    return store.current() == before and service.healthy(before.port) is not None


def _nothing(folder: Path) -> None:
    """Do nothing, as a state asks that is none of ours."""


def _finish_way_back(store: Store, before: Deployment, owner: Owner) -> None:
    """Run the release before again after a switch that a power cut ended before its commit."""
    words = ["--runtime", before.runtime, "--port", str(before.port), "--service", before.service]
    words += [word for name in before.host_names for word in ("--host-name", name)]
    words += [word for origin in before.cors_origins for word in ("--cors-origin", origin)]
    words += ["--allow-unsigned"] if before.unsigned else []
    call(store, "activate", before.release, *words, "--unjudged", owner.unjudged or "a way back")


def _release(folder: Path) -> str:
    content = read_bounded(folder / "files" / UPDATE, MAX_UPDATE_BYTES)
    if content is None:
        raise DeviceError("missing_file", f"the update has no `{UPDATE}`", "make it anew")
    return read_update(content).release


def _open_note(folder: Path) -> int:
    """Open the note as whoever calls: the update's folder may be root's alone."""
    descriptor = disk.create(folder / BEFORE)
    disk.sync(folder)
    return descriptor


def _write_note(descriptor: int, before: "Deployment | None") -> None:
    try:
        disk.write_all(descriptor, json.dumps(asdict(before) if before else {}).encode())
        disk.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_note(folder: Path) -> "dict[str, Any] | None":
    """Return what the note says; None if there is none, or only its beginning."""
    try:
        fields = parse_json(read_bounded(folder / BEFORE, MAX_UPDATE_BYTES) or b"")
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


_STATES = {"ArtifactInstall": _install, "ArtifactCommit": _commit, "ArtifactRollback": _roll_back}
"""State of an update → what it does; all other states have nothing to do."""
