"""Mender's client, by its documents: it reads an artifact, checks it, and calls an update module.

Source: mendersoftware/mender, Documentation/update-modules-v3-file-api.md, and
mendersoftware/mender-artifact, Documentation/artifact-format-v3.md. It shares no code with what
makes the artifact.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class RefusedError(Exception):
    """The artifact is not one, or not for this device."""


class MenderClient:
    """A device with an update module; `calls` are the states that it was called with."""

    def __init__(
        self, module: Path, environment: Mapping[str, str], *, device_type: str = "testbox"
    ) -> None:
        self.module, self.device_type, self.environment = module, device_type, environment
        self.work = (
            Path(environment["HOME"]) / "mender" / "modules" / "v3" / "payloads" / "0000" / "tree"
        )
        self.calls: list[str] = []
        self.log = ""
        self.provides: dict[str, str] = {}

    def install(self, artifact: Path, *, cut: Callable[[], bool] | None = None) -> bool:
        """Install an artifact; with `cut` the power goes as soon as it says so."""
        header = self._read(artifact)
        self.provides = header["type-info"]["artifact_provides"]
        self._call("ProvidePayloadFileSizes")
        if not self._state("Download") or not self._save(artifact):
            self._end("Cleanup")
            return False
        if self._state("ArtifactInstall", cut=cut):
            assert self._call("NeedsArtifactReboot") in ("", "No\n")
            return True
        if cut is None:
            self._fail()
        return False

    def commit(self) -> bool:
        """Commit what was installed; roll back if the module will not."""
        if self._state("ArtifactCommit"):
            self._end("Cleanup")
            return True
        self._fail()
        return False

    def roll_back(self) -> None:
        """Roll back, as after a power cut or because the server says so."""
        self._fail()

    def _fail(self) -> None:
        if self._call("SupportsRollback") == "Yes\n":
            assert self._state("ArtifactRollback"), self.log
        self._state("ArtifactFailure")
        self._end("Cleanup")

    def _end(self, state: str) -> None:
        self._state(state)
        shutil.rmtree(self.work)

    def _read(self, artifact: Path) -> dict[str, dict[str, dict[str, str]]]:
        """Check an artifact; return its headers and lay the module's folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        for name in ("header", "tmp"):
            (self.work / name).mkdir(parents=True)
        with tarfile.open(artifact) as outer:
            names = outer.getnames()
            if names != ["version", "manifest", "header.tar", "data/0000.tar"]:
                raise RefusedError(f"order of files: {names}")
            content = {name: _bytes(outer, name) for name in names[:3]}
        if json.loads(content["version"]) != {"format": "mender", "version": 3}:
            raise RefusedError("version")
        self._sums = dict(reversed(line.split("  ")) for line in _lines(content["manifest"]))
        for name in ("version", "header.tar"):
            if hashlib.sha256(content[name]).hexdigest() != self._sums.pop(name):
                raise RefusedError(f"checksum of {name}")

        with tarfile.open(fileobj=io.BytesIO(content["header.tar"])) as header:
            if header.getnames()[0] != "header-info":
                raise RefusedError("header-info is not first")
            for name in header.getnames():
                (self.work / "header" / Path(name).name).write_bytes(_bytes(header, name))
        about = json.loads((self.work / "header" / "header-info").read_bytes())
        if self.device_type not in about["artifact_depends"]["device_type"]:
            raise RefusedError(f"for {about['artifact_depends']['device_type']}")
        if [payload["type"] for payload in about["payloads"]] != [self.module.name]:
            raise RefusedError("payload type")
        kind = json.loads((self.work / "header" / "type-info").read_bytes())
        return {"header-info": about, "type-info": kind}

    def _save(self, artifact: Path) -> bool:
        """Save the payload into `files`; say whether every checksum holds."""
        files = self.work / "files"
        files.mkdir()
        with tarfile.open(artifact) as outer:
            payload = io.BytesIO(_bytes(outer, "data/0000.tar"))
        with tarfile.open(fileobj=payload) as inner:
            for name in inner.getnames():
                (files / name).write_bytes(_bytes(inner, name))
        seen = {
            f"data/0000/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files.iterdir()
        }
        return seen == self._sums

    def _state(self, state: str, *, cut: Callable[[], bool] | None = None) -> bool:
        self.calls.append(state)
        child = subprocess.Popen(
            [str(self.module), state, str(self.work)],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while cut and child.poll() is None and time.monotonic() < deadline:
            if cut():
                os.killpg(child.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        _, complaints = child.communicate(timeout=120)
        self.log += complaints
        return child.returncode == 0

    def _call(self, question: str) -> str:
        self.calls.append(question)
        done = subprocess.run(
            [str(self.module), question],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


def _bytes(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member
    return member.read()


def _lines(content: bytes) -> list[str]:
    return content.decode().splitlines()
