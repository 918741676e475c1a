"""Updates of fake bundles, and the board that they come to: a store with one signer."""

import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.fakes import signers
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.ports import free_port
from toolchain import signing
from toolchain.updates import Leaving, leave, parcel_of


class Publisher:
    """Somebody who makes releases, signs them and writes updates of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = signers.make_key(folder / "key")
        self.runtime = make_runtime(folder / "runtime", machine=platform.machine())

    def update(
        self,
        form: str,
        version: int,
        *,
        with_runtime: bool = False,
        payload: bytes = b"weights",
        **moods: str,
    ) -> Leaving:
        """Return an update of a release whose check and service behave as told."""
        folder = self.folder / f"{form}-{version}-{with_runtime}"
        bundle = finished(
            make_bundle(
                folder / "package",
                version=str(version),
                counter=version,
                payload=payload,
                **moods,
            )
        )
        key = signing.find_key(str(self.key))
        manifests = [bundle.path / "manifest.json", self.runtime / "runtime.json"]
        signing.sign(manifests, key, Recorder())
        parcel = parcel_of(bundle.path, self.runtime, ("testbox",), carries_runtime=with_runtime)
        return leave(parcel, form, folder / form)


class Box:
    """A board: a home with a store, reached by nothing but the installer's program."""

    def __init__(self, home: Path, program: Path, *, trusts: Path | None) -> None:
        home.mkdir(parents=True)
        self.home, self.program = home, program
        self.store = home / ".local" / "share" / "demitasse"
        self.owner = home / "owner.json"
        self.owner.write_text(json.dumps({"port": free_port(), "unjudged": "a test"}))
        # What is set for this computer's own stores is not set on a board.
        own = {k: v for k, v in os.environ.items() if not k.startswith("DEMITASSE_")}
        self.environment = {
            **own,
            "HOME": str(home),
            "DEMITASSE_OWNER": str(self.owner),
        }
        if trusts:
            self.agent("trust", "--signer", signers.public(trusts))

    def agent(self, verb: str, *words: str) -> dict[str, Any]:
        """Call a verb of this tree's board side on the store."""
        done = subprocess.run(
            [sys.executable, "-m", "device", verb, "--root", str(self.store), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))

    @property
    def running(self) -> str:
        """Version of what runs, is confirmed and healthy; empty if nothing is."""
        seen = self.agent("status")
        is_healthy = seen["release"] and seen["confirmed"] and seen["service"]["healthy"]
        return str(seen["release"]["version"]) if is_healthy else ""

    def off(self) -> None:
        """Take the power away: every process of the store ends at once."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.home).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
