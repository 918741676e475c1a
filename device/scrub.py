"""`scrub`: read every byte of the store again, as cards forget; name what has rotted and take it out of use."""

import argparse
import json
from pathlib import Path
from typing import Any

from device import disk, service
from device.errors import DeviceError
from device.manifest import ManifestError, sha256_of
from device.store import RELEASES, RUNTIMES, Store


def scrub(argv: list[str]) -> int:
    """Print how much was read and what has rotted: `scrub --root ROOT`; a rotten current release makes room for the previous."""
    parser = argparse.ArgumentParser(prog="scrub")
    parser.add_argument("--root", type=Path, required=True)
    store = Store(parser.parse_args(argv).root)
    with store.locked():
        store.recover()
        blobs = [blob for blob in (store.root / "blobs").iterdir() if not blob.name.startswith(".")]
        seen: dict[str, Any] = {
            "blobs": len(blobs),
            "read_bytes": sum(blob.stat().st_size for blob in blobs),
        }
        rotten = {blob.name for blob in blobs if sha256_of(blob) != blob.name}
        faults = [fault for kind in (RELEASES, RUNTIMES) for fault in _faults(store, kind, rotten)]
        for name in rotten:
            disk.unlink(store.blob(name))
        current = store.current()
    if current and {fault["in"] for fault in faults} & {current.release, current.runtime}:
        service.choose(store, current.service).start()
    print(
        json.dumps(
            dict(seen, rotten=faults, hint="push the release again" if faults else ""),
            ensure_ascii=False,
        )
    )
    return 0


def _faults(store: Store, kind: str, rotten: "set[str]") -> "list[dict[str, str]]":
    """Return each damaged file of the releases or the runtimes; of one that is damaged in another way, the error."""
    found = []
    for folder in sorted((store.root / kind).iterdir()):
        if folder.name.startswith("."):
            continue
        try:
            files = (store.read_release if kind == RELEASES else store.read_runtime)(
                folder.name
            ).files
            damaged = [file.path for file in files if file.sha256 in rotten]
            found += [
                {"in": folder.name, "kind": kind[:-1], "what": f"`{path}` has rotted"}
                for path in damaged
            ]
            if not damaged:
                store.check(kind, folder.name)
        except (DeviceError, ManifestError) as error:
            found.append({"in": folder.name, "kind": kind[:-1], "what": str(error)})
    return found
