"""push(Bundle, Device) → Deployment: look at the board, plan, act.

What does not fit or would crash there is refused before the first byte. Only what the board does
not hold is sent, each blob from the byte where it was cut. The board itself checks the release,
switches to it, and rolls back if it is not healthy.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest import Manifest, ManifestError
from device.manifest.endpoint import PORT
from toolchain import signing
from toolchain.agent import build_agent
from toolchain.artifacts import Action, Bundle, Deployment
from toolchain.board.device import Device
from toolchain.cargo import Cargo, release_cargo, runtime_cargo
from toolchain.errors import ArtifactError, ToolchainError
from toolchain.progress import Reporter
from toolchain.push import sent as kept
from toolchain.push.fitness import note_other_target, refuse_bundle, refuse_unfit
from toolchain.push.transfer import Blob, send_blobs, send_manifest

if TYPE_CHECKING:
    from toolchain.push.delta import Old, Patches

Facts = Mapping[str, Any]
Loads = Mapping[str, Sequence[Blob]]
"""Missing blobs of each cargo that is not complete on the board, by cargo id."""
ACTIVATION_S = 3600.0
SQLITE = b"SQLite format 3\0"
"""First bytes of an index of documents (https://www.sqlite.org/fileformat.html)."""


def missing(cargo: Cargo, stored: Facts) -> list[Blob]:
    """Return the blobs of a folder that the board lacks, each content once."""
    blobs: Mapping[str, int | None] = stored["blobs"]
    wanted = {file.sha256: file for file in cargo.files if blobs.get(file.sha256, 0) is not None}
    return [
        Blob(
            path=cargo.folder / file.path,
            sha256=digest,
            size=file.size,
            offset=min(blobs.get(digest) or 0, file.size),
        )
        for digest, file in wanted.items()
    ]


def _is_there(cargo: Cargo, stored: Facts) -> bool:
    """Return whether the board has all of a folder: the bytes, and the same signature."""
    signed = (
        not cargo.signature
        or stored["signatures"].get(cargo.id) == sha256(cargo.signature).hexdigest()
    )
    return signed and cargo.id in stored[f"{cargo.kind}s"] and not missing(cargo, stored)


def push(
    bundle: Bundle,
    runtime: Path,
    device: Device,
    report: Reporter,
    *,
    port: int = PORT,
    dry_run: bool = False,
    allow_unsigned: bool = False,
    names: Sequence[str] = (),
    patches: "Patches | None" = None,
) -> Deployment:
    """Put a bundle and its runtime on a board and run it there.

    Raises HealthError if the board rolled back. `names` are options of the service (device/serve):
    who may call it by which name. `patches` are shared by the pushes of one bundle to many boards.
    """
    began = time.monotonic()
    described, engine = runtime_cargo(runtime)
    manifest, release = release_cargo(bundle.path)
    cargos = (engine, release)
    facts, stored = device.look()
    loads = {cargo.id: missing(cargo, stored) for cargo in cargos if not _is_there(cargo, stored)}
    coming = sum(blob.size - blob.offset for blobs in loads.values() for blob in blobs)
    refuse_unfit(device.address, manifest, described, facts, coming)
    note_other_target(device.address, manifest, facts, report)
    if not allow_unsigned and not dry_run:
        for cargo in cargos:
            signing.refuse_untrusted(
                device.address, f"{cargo.kind} {cargo.id[:12]}", cargo.signature, stored["signers"]
            )

    loads = {
        key: [update(blob, manifest, device, report, patches) for blob in blobs]
        for key, blobs in loads.items()
    }
    actions = plan(manifest, cargos, loads, stored, port=port)
    unsigned = ["--allow-unsigned"] if allow_unsigned else []
    sent, answer = (
        (0, {})
        if dry_run
        else _act(device, manifest, cargos, loads, ["--port", str(port), *unsigned, *names], report)
    )
    if not dry_run:
        _remember(cargos[1])

    return Deployment(
        release=cargos[1].id,
        name=manifest.name,
        version=manifest.version,
        address=device.address,
        port=port,
        bytes_sent=sent,
        seconds=round(time.monotonic() - began, 2),
        actions=tuple(actions),
        goldens=_goldens(answer.get("check") or {}),
        unchanged=bool(answer.get("unchanged")),
    )


def refuse_at_first_look(bundle: Path, device: Device) -> None:
    """Raise FitError or BoardError if a board's facts alone say that it cannot run a bundle.

    Called before a runtime is made for the board.
    """
    manifest, release = release_cargo(bundle)
    facts, stored = device.look()
    coming = sum(blob.size - blob.offset for blob in missing(release, stored))
    refuse_bundle(device.address, manifest, facts, coming)


def plan(
    manifest: Manifest, cargos: tuple[Cargo, Cargo], loads: Loads, stored: Facts, *, port: int
) -> list[Action]:
    """Return what a push would do, with the bytes of each step."""
    agent = build_agent()
    actions = []
    if agent.name not in stored["agents"]:
        actions.append(
            Action(verb="send", what=f"agent {agent.stem[:12]}", size_bytes=agent.stat().st_size)
        )

    for cargo in cargos:
        if cargo.id in loads:
            absent_blobs = {blob.sha256: blob for blob in loads[cargo.id]}
            absent = sum(file.sha256 in absent_blobs for file in cargo.files)
            ways = {
                f"{blob.path.relative_to(cargo.folder).as_posix()} {way}": size
                for blob in absent_blobs.values()
                for way, size in _ways(blob).items()
            }
            what = f"{cargo.kind} {cargo.id[:12]}: {absent} of {len(cargo.files)} files"
            size = (
                sum(blob.missing_bytes for blob in absent_blobs.values())
                + len(cargo.manifest)
                + len(cargo.signature)
            )
            actions.append(Action(verb="send", what=what, size_bytes=size, ways=ways))

    return [
        *actions,
        Action(verb="activate", what=f"{manifest.name} {manifest.version} on port {port}"),
    ]


def _ways(blob: Blob) -> dict[str, int]:
    """Return the bytes of each way to send a file, the one taken first; empty without a choice."""
    if not blob.patch:
        return {}
    tensors = {"in whole tensors": blob.patch.whole_tensor_bytes} if blob.patch.old.tensors else {}
    return {"as a delta": blob.missing_bytes, **tensors, "whole": blob.size - blob.offset}


def update(
    blob: Blob,
    manifest: Manifest,
    device: Device,
    report: Reporter,
    patches: "Patches | None" = None,
) -> Blob:
    """Return a file with the cheapest way to send it: as a patch, or whole."""
    if not kept.is_worth(blob.path.name, blob.size - blob.offset):
        return blob

    from toolchain.push import delta

    try:
        old = _old_file(blob.path, device)
        if not old:
            return blob
        report.note(f"{device.address}: {blob.path.name}: compared with the file that is there")
        digests = {str(tensor["name"]): str(tensor["sha256"]) for tensor in manifest.tensors}
        patches = patches or delta.Patches()
        patched = replace(blob, patch=patches.get(old, blob.path, digests, report))
    except ManifestError as error:
        raise ArtifactError(str(error), hint="package it again") from error

    return patched if patched.missing_bytes < blob.missing_bytes else blob


def _old_file(path: Path, device: Device) -> "Old | None":
    """Return the file on the board that a patch is best made of; None if there is none."""
    from toolchain.push import delta

    stored = device.look()[1]
    if not _is_index(path):
        return delta.closest(path, _old_models(device, stored))
    indexes = filter(_is_index, kept.held(_whole(stored)))
    return next((delta.plain_file(file, file.name) for file in indexes), None)


def _is_index(file: Path) -> bool:
    """Say whether a file is an index of documents."""
    with file.open("rb") as stream:
        return stream.read(len(SQLITE)) == SQLITE


def _whole(stored: Facts) -> set[str]:
    """Return the sha256 of the files that the board holds whole."""
    return {digest for digest, there in stored["blobs"].items() if there is None}


def _old_models(device: Device, stored: Facts) -> "list[Old]":
    """Return model files that the board holds, to make a patch of.

    They are the files that this computer sent, newest first, or else the one that the board serves.

    A file that is damaged, here or there, is left out: the push that is under way repairs it.
    """
    from toolchain.push import delta

    whole = _whole(stored)
    found = []
    for file in kept.held(whole):
        with suppress(ManifestError):
            found.append(delta.old_file(file, file.name))

    if found or not stored["releases"] or build_agent().name not in stored["agents"]:
        return found

    with suppress(ToolchainError):
        described = device.call("tensors")
        return (
            [delta.known_file(described["sha256"], described["tensors"])]
            if described["sha256"] in whole
            else []
        )

    return []


def _act(
    device: Device,
    manifest: Manifest,
    cargos: tuple[Cargo, Cargo],
    loads: Loads,
    how: list[str],
    report: Reporter,
) -> tuple[int, Facts]:
    """Return the bytes that were sent, and what the board said of the switch."""
    sent = device.install()
    if loads:
        blobs = {blob.sha256: blob for load in loads.values() for blob in load}
        with device.talk("receive") as channel:
            sent += send_blobs(device, channel, list(blobs.values()), report)
            for cargo in cargos:
                if cargo.id in loads:
                    sent += send_manifest(
                        device, channel, cargo.kind, cargo.manifest, cargo.signature
                    )
            channel.close_input()
            channel.finish()

    report.note(f"{device.address}: {manifest.name} {manifest.version}: load, goldens, switch")
    runtime, release = cargos
    kind = device.kind
    service = ["--service", kind.service] if kind.service else []
    unjudged = ["--unjudged", kind.unjudged] if kind.unjudged else []
    words = [*how, *service, *unjudged, *kind.timeouts]
    answer = device.call(
        "activate", release.id, "--runtime", runtime.id, *words, timeout_s=ACTIVATION_S
    )
    if goldens := _goldens(answer.get("check") or {}):
        report.note(f"{device.address}: {goldens}")
    return sent, answer


def _goldens(check: Facts) -> str:
    """Return in words how the board answered the goldens (device/check.py)."""
    if "goldens" not in check:
        return ""
    if "agreement" in check:
        return (
            f"{check['goldens']} goldens agree in {check['agreement']:.1%} of their tokens: "
            "this processor rounds otherwise"
        )

    return f"{check['goldens']} goldens, equal token for token"


def _remember(cargo: Cargo) -> None:
    for file in cargo.files:
        if kept.is_worth(file.path, file.size):
            kept.keep(cargo.folder / file.path, file.sha256)
