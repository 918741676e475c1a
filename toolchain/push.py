"""push(Bundle, Device) → Deployment: look at the board, plan, act.

What does not fit or would crash there is refused before the first byte. Only what the board does not hold is sent, each blob
from the byte where it was cut; the board itself checks, switches, and goes back if the release is not healthy.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from device.manifest import (
    BUNDLE_MANIFEST,
    RUNTIME_MANIFEST,
    File,
    Manifest,
    ManifestError,
    RuntimeManifest,
    read_manifest,
    read_runtime,
)  # fmt: skip
from toolchain import runtime as runtimes
from toolchain.artifacts import Action, Bundle, Deployment
from toolchain.board.connection import Channel
from toolchain.board.device import Device, check_python, parse
from toolchain.errors import ArtifactError, BoardError, FitError
from toolchain.progress import Reporter
from toolchain.target import Needs, fit, recognise

Facts = Mapping[str, Any]
READ_BYTES = 1 << 20
GROUP_BYTES = 8 << 20
GROUP_BLOBS = 500
"""Blobs that are put in one request: small files share the board's fsyncs."""
SPARE_DISK_BYTES = 32 << 20
ACTIVATION_S = 3600.0
RUNTIME_MEMORY_BYTES = 64 << 20
"""The interpreter and the server, beside the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file that the board lacks, whole or in part."""

    path: Path
    sha256: str
    size: int
    offset: int
    """The first byte that is missing."""

    @property
    def missing_bytes(self) -> int:
        """What has to be sent."""
        return self.size - self.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Cargo:
    """A folder that travels: a runtime or a bundle."""

    kind: Literal["runtime", "release"]
    folder: Path
    files: tuple[File, ...]
    manifest: bytes
    signature: bytes
    """Empty where there is none."""

    @property
    def id(self) -> str:
        """Its name on a board."""
        return sha256(self.manifest).hexdigest()

    def missing(self, stored: Facts) -> list[Blob]:
        """Return what the board lacks of it, each content once."""
        blobs: Mapping[str, int | None] = stored["blobs"]
        wanted = {file.sha256: file for file in self.files if blobs.get(file.sha256, 0) is not None}
        return [
            Blob(path=self.folder / file.path, sha256=digest, size=file.size, offset=min(blobs.get(digest) or 0, file.size))
            for digest, file in wanted.items()
        ]

    def is_there(self, stored: Facts) -> bool:
        """Say whether nothing of it has to be sent."""
        return self.id in stored[f"{self.kind}s"] and not self.missing(stored)


def push(bundle: Bundle, runtime: Path, device: Device, report: Reporter, *, port: int = 8080, dry_run: bool = False) -> Deployment:
    """Put a bundle and its runtime on a board and run it there; raise HealthError if the board went back."""
    began = time.monotonic()
    manifest, cargos = _load(bundle.path, runtime)
    facts, stored = device.look()
    actions = plan(manifest, cargos, stored, port=port)
    refuse_unfit(device.address, manifest, _runtime_manifest(runtime), facts, sum(action.size_bytes for action in actions))
    sent, goldens = (0, "") if dry_run else _act(device, manifest, cargos, stored, port, report)
    return Deployment(
        release=cargos[1].id, name=manifest.name, version=manifest.version, address=device.address, port=port,
        bytes_sent=sent, seconds=round(time.monotonic() - began, 2), actions=tuple(actions), goldens=goldens,
    )  # fmt: skip


def plan(manifest: Manifest, cargos: tuple[Cargo, Cargo], stored: Facts, *, port: int) -> list[Action]:
    """Return what a push would do, with the bytes that each step sends."""
    agent = runtimes.agent()
    actions = []
    if agent.name not in stored["agents"]:
        actions.append(Action(verb="send", what=f"agent {agent.stem[:12]}", size_bytes=agent.stat().st_size))
    for cargo in cargos:
        if not cargo.is_there(stored):
            missing = cargo.missing(stored)
            absent = sum(file.sha256 in {blob.sha256 for blob in missing} for file in cargo.files)
            what = f"{cargo.kind} {cargo.id[:12]}: {absent} of {len(cargo.files)} files"
            size = sum(blob.missing_bytes for blob in missing) + len(cargo.manifest) + len(cargo.signature)
            actions.append(Action(verb="send", what=what, size_bytes=size))
    return [*actions, Action(verb="activate", what=f"{manifest.name} {manifest.version} on port {port}")]


def refuse_unfit(address: str, manifest: Manifest, runtime: RuntimeManifest, facts: Facts, coming_bytes: int) -> None:
    """Raise FitError or BoardError, with the number that failed, if a board cannot run what would be sent."""
    check_python(address, facts)
    if facts["machine"] != runtime.machine:
        raise FitError(f"{address}: the board is `{facts['machine']}`, the runtime is for `{runtime.machine}`")
    if facts["userland_bits"] != 64:
        raise FitError(f"{address}: the board's system is 32-bit", hint="install the 64-bit image of the same system")
    if lacking := sorted(set(runtime.features) - set(facts["cpu_features"])):
        raise FitError(f"{address}: the runtime needs `{'`, `'.join(lacking)}`, which the board's processor lacks")
    if _version(facts["glibc"]) < _version(runtime.glibc):
        raise FitError(f"{address}: the runtime needs glibc {runtime.glibc}, the board has {facts['glibc'] or 'none'}")
    _refuse_memory(address, manifest, facts)
    if coming_bytes + SPARE_DISK_BYTES > facts["disk_free_bytes"]:
        free, need = facts["disk_free_bytes"] >> 20, (coming_bytes + SPARE_DISK_BYTES) >> 20
        raise BoardError(f"{address}: disk full: {need} MB are needed, {free} MB are free", hint="make room on the board")


def _refuse_memory(address: str, manifest: Manifest, facts: Facts) -> None:
    if not manifest.needs or facts["memory_total_mb"] is None:
        return
    needs = Needs(context=manifest.context, runtime_bytes=RUNTIME_MEMORY_BYTES, **manifest.needs)
    total = int(facts["memory_total_mb"])
    found = fit(needs, recognise(facts["model"], facts["machine"], total) or total, total)
    if not found.ok:
        raise FitError(f"{address}: {manifest.name} does not fit in memory: {found.reasons[0]}", hint=found.hint)


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0").split("."))


def _load(bundle: Path, runtime: Path) -> tuple[Manifest, tuple[Cargo, Cargo]]:
    try:
        manifest = read_manifest(bundle)
    except ManifestError as error:
        raise ArtifactError(f"{bundle.name}: {error}", hint="package it again") from error
    described = _runtime_manifest(runtime)
    return manifest, (
        _cargo("runtime", runtime, described.files, RUNTIME_MANIFEST),
        _cargo("release", bundle, manifest.files, BUNDLE_MANIFEST),
    )


def _runtime_manifest(runtime: Path) -> RuntimeManifest:
    try:
        return read_runtime(runtime)
    except ManifestError as error:
        raise ArtifactError(f"{runtime.name}: {error}") from error


def _cargo(kind: Literal["runtime", "release"], folder: Path, files: tuple[File, ...], manifest_name: str) -> Cargo:
    for file in files:
        path = folder / file.path
        size = path.stat().st_size if path.is_file() else -1
        if size != file.size:
            seen = "is missing" if size < 0 else f"has {size:,} bytes, the manifest says {file.size:,}"
            raise ArtifactError(f"{folder.name}: `{file.path}` {seen}", hint="package it again")
    signature = folder / f"{manifest_name}.sig"
    signed = signature.read_bytes() if signature.is_file() else b""
    return Cargo(kind=kind, folder=folder, files=files, manifest=(folder / manifest_name).read_bytes(), signature=signed)


def _act(
    device: Device, manifest: Manifest, cargos: tuple[Cargo, Cargo], stored: Facts, port: int, report: Reporter
) -> tuple[int, str]:
    """Return the bytes that were sent, and how the board gave the goldens."""
    sent = device.install()
    absent = [cargo for cargo in cargos if not cargo.is_there(stored)]
    if absent:
        blobs = {blob.sha256: blob for cargo in absent for blob in cargo.missing(stored)}
        with device.talk("receive") as channel:
            sent += send_blobs(device, channel, list(blobs.values()), report)
            sent += sum(_send_manifest(device, channel, cargo) for cargo in absent)
            channel.close_input()
            channel.finish()
    report.note(f"{device.address}: {manifest.name} {manifest.version}: load, goldens, switch")
    runtime, release = cargos
    kind = ["--service", "supervised"] if device.address == "local" else []
    answer = device.call("activate", release.id, "--runtime", runtime.id, "--port", str(port), *kind, timeout_s=ACTIVATION_S)
    if goldens := _goldens(answer.get("check") or {}):
        report.note(f"{device.address}: {goldens}")
    return sent, goldens


def _goldens(check: Facts) -> str:
    """Return in words what the board's check saw of the goldens (device/check.py)."""
    if "goldens" not in check:
        return ""
    if "agreement" in check:
        return f"{check['goldens']} goldens agree in {check['agreement']:.1%} of their tokens: this processor rounds otherwise"
    return f"{check['goldens']} goldens, equal token for token"


def send_blobs(device: Device, channel: Channel, blobs: Sequence[Blob], report: Reporter) -> int:
    """Send what is missing of each blob in a `receive` session (the protocol is in device/receive.py); return the bytes."""
    total, sent = sum(blob.missing_bytes for blob in blobs), 0
    for group in _groups(blobs):
        entries = [{"sha256": blob.sha256, "size": blob.size, "offset": blob.offset} for blob in group]
        device.send(channel, _line({"op": "put", "blobs": entries}))
        for blob in group:
            for chunk in _chunks(blob):
                device.send(channel, chunk)
                sent += len(chunk)
                report.step("send", sent, total, "B")
        _hear(device, channel)
    return sent


def _send_manifest(device: Device, channel: Channel, cargo: Cargo) -> int:
    """Have a folder made of blobs that are there; return the bytes."""
    papers = cargo.manifest + cargo.signature
    device.send(channel, _line({"op": cargo.kind, "size": len(cargo.manifest), "signature_size": len(cargo.signature)}))
    device.send(channel, papers)
    _hear(device, channel)
    return len(papers)


def _chunks(blob: Blob) -> Iterator[memoryview]:
    """Yield the missing bytes; each chunk is valid until the next."""
    buffer = memoryview(bytearray(READ_BYTES))
    with blob.path.open("rb", buffering=0) as stream:
        stream.seek(blob.offset)
        while count := stream.readinto(buffer):
            yield buffer[:count]


def _line(request: Mapping[str, object]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _hear(device: Device, channel: Channel) -> None:
    if not (line := channel.read_line()):
        ended = channel.finish()
        raise BoardError(f"{device.address}: the transfer ended early: {ended.stderr.strip()[-300:] or ended.code}")
    parse(device.address, line)


def _groups(blobs: Sequence[Blob]) -> Iterator[list[Blob]]:
    """Yield blobs in the order they came, small ones together."""
    group: list[Blob] = []
    for blob in blobs:
        if group and (len(group) == GROUP_BLOBS or sum(b.missing_bytes for b in group) + blob.missing_bytes > GROUP_BYTES):
            yield group
            group = []
        group.append(blob)
    if group:
        yield group
