"""What a board goes through, without its processes: releases come, are activated, swept, sent again
and taken back.
"""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from device import activation, service
from device.counters import Counters
from device.receive import Input, _request, _serve
from device.store import MANIFEST_OF, RELEASES, RUNTIMES, Deployment, Store
from tests.fakes.bundles import make_bundle, make_runtime

NOTHING = ("", "")
LIMITS = activation.Limits(check_s=1.0, health_s=1.0)


class NoService:
    """A service that needs no process: it is healthy as soon as it is started."""

    kind, survives_reboot, hint = "supervised", False, ""

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def pid(self) -> None:
        """There is no process."""

    def failure(self) -> str:
        """It does not fail."""
        return ""


def make_cargo(folder: Path) -> Path:
    """Make three releases and two runtimes that are to travel."""
    for number in (1, 2):
        make_runtime(folder / f"runtime{number}", extra_files=number)
    for number in (1, 2, 3):
        make_bundle(folder / f"release{number}", version=str(number), counter=number)
    return folder


class Life:
    """One store, and what comes to it."""

    def __init__(self, cargo: Path, root: Path) -> None:
        self.root, self._cargo, self.store = root, cargo, Store(root)
        self.told: Callable[[dict[str, Any], dict[str, Any]], None] = lambda request, answer: None
        """Called with each request of a session and its answer."""
        self.names = {
            path.name: _sha256(path / MANIFEST_OF[_kind(path)]) for path in cargo.iterdir()
        }

    def steps(self) -> "list[tuple[tuple[str, str], Callable[[], None]]]":
        """Return what happens, each with what serves and what is the way back when it is over."""
        return [
            (NOTHING, lambda: self.bring("runtime1", "release1")),
            (("release1", ""), lambda: self.activate("release1", "runtime1")),
            (("release1", ""), lambda: self.bring("runtime2", "release2")),
            (("release2", "release1"), lambda: self.activate("release2", "runtime2")),
            (("release2", "release1"), lambda: self.bring("release3")),
            (("release3", "release2"), lambda: self.activate("release3", "runtime2")),
            (("release3", "release2"), lambda: self.bring("release3")),
            (("release2", "release3"), self.rollback),
        ]

    def bring(self, *names: str) -> None:
        """Send runtimes and releases as a push does, in one session."""
        with tempfile.TemporaryFile(buffering=0) as stream, self.store.locked():
            stream.write(b"".join(_session(self._cargo / name) for name in names))
            stream.seek(0)
            self.store.sweep_staging()
            session = Input(stream)
            while line := session.line():
                request = _request(line)
                self.told(request, _serve(self.store, session, request))

    def activate(self, release: str, runtime: str) -> None:
        """Activate a release, as the verb does it."""
        wanted = Deployment(
            release=self.names[release],
            runtime=self.names[runtime],
            port=8080,
            service="supervised",
            unsigned=True,
        )
        with self.store.locked():
            self.store.recover()
            activation.activate(self.store, wanted, LIMITS)

    def rollback(self) -> None:
        """Go back, as the verb does it."""
        with self.store.locked():
            self.store.recover()
            previous = self.store.previous()
            assert previous
            activation.replace_release(self.store, previous, self.store.current(), LIMITS)

    def serves(self) -> tuple[str, str]:
        """Return what a board serves and its way back when it wakes up."""
        self.store.recover()
        return self.is_sound()

    def is_sound(self) -> tuple[str, str]:
        """Return what is current and what is previous; raise AssertionError or DeviceError unless
        all is sound.
        """
        current, previous = self.store.current(), self.store.previous()
        assert (self.root / "current").is_symlink() == (current is not None)
        for blob in (self.root / "blobs").iterdir():
            assert blob.name.startswith(".") or _sha256(blob) == blob.name, (
                "a blob that is not what its name says"
            )
        if not current:
            return NOTHING
        for deployment in filter(None, (current, previous)):
            self.store.check(RELEASES, deployment.release)
            self.store.check(RUNTIMES, deployment.runtime)
        served = self.store.read_release(current.release)
        assert (
            self.store.confirmed() != current
            or Counters(self.root).read().get(served.name, 0) >= served.counter
        )
        called = {digest: name for name, digest in self.names.items()}
        return called[current.release], called[previous.release] if previous else ""


@contextlib.contextmanager
def without_processes() -> Iterator[None]:
    """Let activations run without a service and without a child that checks."""
    real = (service.choose, service.healthy, service.port_is_taken, activation.run_verb)
    service.choose = lambda store, kind: NoService()
    service.healthy = lambda port: {"status": "ok"}
    service.port_is_taken = lambda port: False
    activation.run_verb = lambda *arguments: {"goldens": 1}
    try:
        yield
    finally:
        service.choose, service.healthy, service.port_is_taken, activation.run_verb = real


def _session(folder: Path) -> bytes:
    manifest = (folder / MANIFEST_OF[_kind(folder)]).read_bytes()
    sent = b""
    for file in json.loads(manifest)["files"]:
        sent += _line(
            {"op": "put", "blobs": [{"sha256": file["sha256"], "size": file["size"], "offset": 0}]}
        )
        sent += (folder / file["path"]).read_bytes()
    return (
        sent
        + _line({"op": _kind(folder).removesuffix("s"), "size": len(manifest), "signature_size": 0})
        + manifest
    )


def _kind(folder: Path) -> str:
    return RELEASES if folder.name.startswith("release") else RUNTIMES


def _line(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
