"""The verb `install`: an update from a folder into the store, and the switch to it.

It is called by the client of an update server, often as root, so the program that holds it is put
on the board once by its owner and never comes with an update. The rule: root opens the files of the
update and nothing else; all that follows runs as the owner of the store (`/etc/demitasse.json`).
"""

import argparse
import hashlib
import json
import os
import pwd
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from device import disk
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.endpoint import PORT
from device.manifest.reading import parse_json, read_bounded, stream_of
from device.manifest.update import (
    MAX_UPDATE_BYTES,
    RELEASE_CARGO,
    RUNTIME_CARGO,
    UPDATE,
    Update,
    read_update,
)
from device.store import RUNTIMES, Deployment, Store
from device.unloading import unload

OWNER_FILE = "/etc/demitasse.json"
ROOT = "~/.local/share/demitasse"
"""Usual folder of a store, under its owner's home."""
MAX_PROGRAM_BYTES = 16 << 20
ZIP = b"PK\x03\x04"
"""First bytes of the agent, which follows lines of shell in the installer's file."""
EXECUTE_S = 3600.0
MAX_DETAIL = 512
"""Maximum characters of a line of feedback; hawkBit's column for a message has 512."""


@dataclass(frozen=True)
class Owner:
    """What the board's owner decides about updates: the fields of `/etc/demitasse.json`."""

    user: str = ""
    """Account that owns the store; empty: the one that calls."""
    port: int = 0
    """Port of the first release; later ones keep the port that is in use."""
    unjudged: str = ""
    """Why the speed of a release says nothing here."""


@dataclass(frozen=True)
class Files:
    """The opened files of an update."""

    update: Update
    release: BinaryIO
    runtime: "BinaryIO | None" = field(default=None)


def install(argv: list[str]) -> int:
    """Install the update in a folder; print what runs, or with --ddi what hawkBit wants to hear."""
    parser = argparse.ArgumentParser(prog="install")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--ddi", action="store_true", help="print the status for hawkBit's feedback channel"
    )
    options = parser.parse_args(argv)
    try:
        owner = read_owner()
        files = open_files(options.folder)
        become(owner)
        answer = install_files(open_store(), files, owner)
    except (DeviceError, ManifestError) as error:
        if options.ddi:
            _print(failed(error))
            return 1
        raise

    _print(succeeded(files.update) if options.ddi else answer)
    return 0


def failed(fault: Exception) -> dict[str, Any]:
    """Return the `status` of a failed deployment, as DDI's feedback channel takes it."""
    return {
        "execution": "closed",
        "result": {"finished": "failure"},
        "details": [line[:MAX_DETAIL] for line in words_of(fault)],
    }


def succeeded(update: Update) -> dict[str, Any]:
    """Return the `status` of a deployment that runs, as DDI's feedback channel takes it."""
    said = f"{update.name} {update.version} runs: release {update.release}"
    return {"execution": "closed", "result": {"finished": "success"}, "details": [said]}


def words_of(fault: Exception) -> list[str]:
    """Return the lines that say what went wrong: code and sentence, then the hint."""
    hint = getattr(fault, "hint", "")
    return [f"{getattr(fault, 'code', 'disk')}: {fault}", *([f"hint: {hint}"] if hint else [])]


def read_owner() -> Owner:
    """Return what the owner decided; raise DeviceError `bad_request` for a broken file."""
    path = Path(os.environ.get("DEMITASSE_OWNER", OWNER_FILE))
    content = read_bounded(path, MAX_UPDATE_BYTES)
    if content is None and not os.path.lexists(path):
        return Owner()

    try:
        fields = parse_json(content or b"")
        owner = Owner(**fields)
        sound = (
            isinstance(owner.user, str)
            and isinstance(owner.unjudged, str)
            and type(owner.port) is int
            and 0 <= owner.port < 1 << 16
        )
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise DeviceError(
            "bad_request",
            f"{path} is broken: `user`, `port` and `unjudged` are its fields",
            f"write it again, or delete it: {path}",
        )
    return owner


def open_files(folder: Path) -> Files:
    """Open the files of an update; raise DeviceError or ManifestError if one is not sound."""
    content = read_bounded(folder / UPDATE, MAX_UPDATE_BYTES)
    if content is None:
        raise DeviceError("missing_file", f"the update has no `{UPDATE}`", "make it anew")
    update = read_update(content)
    try:
        carried = os.path.lexists(folder / RUNTIME_CARGO)
        return Files(
            update=update,
            release=stream_of(folder / RELEASE_CARGO),
            runtime=stream_of(folder / RUNTIME_CARGO) if carried else None,
        )
    except OSError as error:
        raise DeviceError(
            "missing_file", f"the update's files cannot be read: {error}", "make it anew"
        ) from error


def become(owner: Owner) -> None:
    """Become the owner of the store for good; raise DeviceError if that is not allowed."""
    if not owner.user:
        return
    try:
        account = pwd.getpwnam(owner.user)
        if os.geteuid() != account.pw_uid:
            os.initgroups(owner.user, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
    except (KeyError, OSError, ValueError) as error:
        raise DeviceError(
            "bad_request", f"the updates' owner `{owner.user[:40]}` cannot be taken on: {error}"
        ) from error

    os.environ.update(HOME=account.pw_dir, USER=owner.user, LOGNAME=owner.user)
    os.environ["XDG_RUNTIME_DIR"] = f"/run/user/{account.pw_uid}"
    os.chdir("/")  # the folder that root called from may be closed to the owner


def open_store() -> Store:
    """Return the store of the user that runs this."""
    return Store(Path(os.environ.get("DEMITASSE_ROOT", ROOT)))


def install_files(store: Store, files: Files, owner: Owner) -> dict[str, Any]:
    """Take an update into the store and switch to it; return what `activate` printed.

    Raise DeviceError with its code; the release before runs again then.
    """
    update = files.update
    if files.runtime is None and not store.folder(RUNTIMES, update.runtime).is_dir():
        raise DeviceError(
            "missing_runtime",
            f"{update.name} {update.version} needs runtime {update.runtime[:12]}, "
            "which is neither on this board nor in the update",
            "send an update that was made with --with-runtime",
        )

    if files.runtime:
        unload(store, files.runtime, "runtime", update.runtime)
    unload(store, files.release, "release", update.release)
    words = ["--runtime", update.runtime, *_as_before(store.current(), owner)]
    return call(store, "activate", update.release, *words)


def _as_before(current: "Deployment | None", owner: Owner) -> list[str]:
    """Return the options of a switch: what its owner chose for the release that runs."""
    unjudged = ["--unjudged", owner.unjudged] if owner.unjudged else []
    if not current:
        return ["--port", str(owner.port or PORT), *unjudged]
    return [
        *("--port", str(current.port), "--service", current.service),
        *(word for name in current.host_names for word in ("--host-name", name)),
        *(word for origin in current.cors_origins for word in ("--cors-origin", origin)),
        *unjudged,
    ]


def call(store: Store, verb: str, *words: str) -> dict[str, Any]:
    """Run a verb of the agent in the store; return what it printed, or raise its error."""
    command = [sys.executable, "-sE", str(_keep_agent(store)), verb, "--root", str(store.root)]
    done = subprocess.run(
        [*command, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=EXECUTE_S,
        check=False,
    )
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        answer: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise DeviceError(
            "internal_error", f"`{verb}` ended with exit status {done.returncode} and said nothing"
        ) from error

    if fault := answer.get("error"):
        raise DeviceError(fault["code"], fault["message"], fault.get("hint", ""))
    return answer


def _keep_agent(store: Store) -> Path:
    """Put the agent that this program holds into the store, where a service can run it.

    The file of the installer may be replaced while the service runs; the agent's may not.
    """
    own = Path(sys.argv[0]).absolute()
    content = read_bounded(own, MAX_PROGRAM_BYTES) or b""
    start = content.find(ZIP)
    if start < 0 or len(content) > MAX_PROGRAM_BYTES:
        raise DeviceError("internal_error", f"{own} is not the program that `package --as` made")

    agent = content[start:]
    kept = store.root / "agents" / f"{hashlib.sha256(agent).hexdigest()}.pyz"
    if read_bounded(kept, len(agent)) != agent:
        disk.make_folder(kept.parent)
        disk.write_whole(kept, agent)
    return kept


def _print(answer: dict[str, Any]) -> None:
    print(json.dumps(answer, ensure_ascii=False), flush=True)
