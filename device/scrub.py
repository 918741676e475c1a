"""`scrub`: reads every byte of the store again, since cards forget.

Names what has rotted and removes it.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from device import disk, prefixes, service
from device.counters import COPIES
from device.errors import DeviceError
from device.manifest import ManifestError, sha256_of
from device.store import PREFIXES, RELEASES, RUNTIMES, STATE_COPIES, TUNED, Store


def scrub(argv: list[str]) -> int:
    """Print how much was read and what has rotted: `scrub --root ROOT`.

    A rotten current release is replaced by the previous one.
    """
    parser = argparse.ArgumentParser(prog="scrub")
    parser.add_argument("--root", type=Path, required=True)
    store = Store(parser.parse_args(argv).root)

    with store.locked():
        store.recover()
        blobs = [blob for blob in (store.root / "blobs").iterdir() if not blob.name.startswith(".")]
        seen: dict[str, Any] = {
            "blobs": len(blobs),
            "read_bytes": sum(blob.lstat().st_size for blob in blobs),
        }
        rotten = {blob.name for blob in blobs if _digest(blob) != blob.name}
        faults = [fault for kind in (RELEASES, RUNTIMES) for fault in _faults(store, kind, rotten)]
        beside = _faults_beside(store)
        for name in rotten:
            disk.remove(store.root / "blobs" / name)

        current = store.current()

    damaged = current and {fault["in"] for fault in faults} & {current.release, current.runtime}
    if current and damaged and not store.is_stopped:
        service.choose(store, current.service).start()

    hint = "push the release again" if faults else ""
    print(json.dumps(dict(seen, rotten=faults + beside, hint=hint), ensure_ascii=False))
    return 0


def _digest(file: Path) -> str:
    """Return a file's sha256; empty if it cannot be read or is not a regular file."""
    try:
        return sha256_of(file)
    except OSError:
        return ""


def _faults_beside(store: Store) -> "list[dict[str, str]]":
    """Return what has rotted outside of releases and runtimes.

    A file with a second copy is mended; a file that is made anew is deleted.
    """
    found = []
    for agent in sorted((store.root / "agents").glob("*")):
        if _digest(agent) != agent.stem:
            found.append(_beside("agents", agent.name, "is sent again by the next command"))
            disk.remove(agent)

    for file in _json_files(store):
        if disk.read_json(file) is None:
            where = file.relative_to(store.root).as_posix()
            found.append(_beside("store", where, _REMEDIES.get(file.name, "is made anew")))
            if file.name not in _REMEDIES:
                disk.remove(file)

    for state in sorted((store.root / PREFIXES).glob("*/*.state")):
        if not prefixes.is_recorded(state):
            found.append(_beside(PREFIXES, state.name, "is made anew"))
            disk.remove(state)

    if found:
        store.mend_copies()

    return found


_REMEDIES = {
    "trust.json": "is written by `demitasse trust BOARD --target ID`",
    **dict.fromkeys((*STATE_COPIES, *COPIES), "is written again from its other copy"),
}


def _json_files(store: Store) -> list[Path]:
    """Return the JSON files of the store, except manifests and notes about processes."""
    single = [store.root / name for name in (*STATE_COPIES, *COPIES, "trust.json")]
    folders = (store.root / name for name in ("deployments", TUNED))
    many = [file for folder in folders for file in sorted(folder.glob("*.json"))]
    many += sorted((store.root / PREFIXES).glob("*/*.json"))
    return [*(file for file in single if os.path.lexists(file)), *many]


def _beside(where: str, name: str, remedy: str) -> "dict[str, str]":
    return {"in": where, "kind": "state", "what": f"`{name}` has rotted: it {remedy}"}


def _faults(store: Store, kind: str, rotten: "set[str]") -> "list[dict[str, str]]":
    """Return each damaged file of the releases or the runtimes, and the error of other damage."""
    found = []
    for folder in sorted((store.root / kind).iterdir()):
        if folder.name.startswith("."):
            continue
        try:
            files = store.files_of(kind, folder.name)
            damaged = [file.path for file in files if file.sha256 in rotten]
            found += [
                {"in": folder.name, "kind": kind[:-1], "what": f"`{path}` has rotted"}
                for path in damaged
            ]
            if not damaged:
                store.check(kind, folder.name)
        except (DeviceError, ManifestError, OSError) as error:
            found.append({"in": folder.name, "kind": kind[:-1], "what": str(error)})

    return found
