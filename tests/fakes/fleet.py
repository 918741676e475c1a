"""A fleet of boards that are folders: real commands, the real protocol, no SSH.

`python -m tests.fakes.fleet FOLDER` pushes to the fleet in a folder as it is told, line by line: a
host that is killed at any of the things that a board or the journal could see of it (`Host`).
"""

import itertools
import json
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.fakes.board import FakeChannel, FakeConnection
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.ports import keep_ports
from toolchain.artifacts import Bundle, Deployment, recorded
from toolchain.board.device import Device
from toolchain.delivery import release_of
from toolchain.errors import UnreachableError
from toolchain.fleet.boards import states
from toolchain.fleet.inventory import Fleet, open_fleet
from toolchain.fleet.journal import Journal
from toolchain.fleet.reaching import Together
from toolchain.fleet.rollout import Rollout, roll_out
from toolchain.push import push
from toolchain.push.delta import Patches


class Shop:
    """Some boards, each a folder with a port of its own; those in `off` cannot be reached.

    With a socket in the folder their commands are forks (tests/fakes/forking.py).
    """

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.folder, self.names, self._ports = folder, list(ports), ports
        self.off: set[str] = set()
        self._kept_ports: list[socket.socket] = []
        self.report = Recorder()
        self.runtime = folder / "runtime"

    @classmethod
    def make(cls, folder: Path, names: list[str], rollout: str = 'soak = "0s"') -> "Shop":
        """Make a fleet in a folder; `rollout` are the lines of that table."""
        kept = keep_ports(len(names))
        ports = {name: each.getsockname()[1] for name, each in zip(names, kept, strict=True)}
        rows = "".join(f'[[boards]]\naddress = "{name}"\n' for name in names)
        (folder / "shop.toml").write_text(f"{rows}[rollout]\n{rollout}\n", encoding="utf-8")
        (folder / "ports.json").write_text(json.dumps(ports), encoding="utf-8")
        make_runtime(folder / "runtime", machine=platform.machine())
        made = cls(folder, ports)
        made._kept_ports = kept
        return made

    @classmethod
    def read(cls, folder: Path) -> "Shop":
        """Return the fleet that was made in a folder."""
        return cls(folder, json.loads((folder / "ports.json").read_text(encoding="utf-8")))

    def fleet(self, only: str = "") -> Fleet:
        return open_fleet(str(self.folder / "shop.toml"), only)

    @contextmanager
    def open(self, address: str) -> Iterator[FakeConnection]:
        if address in self.off:
            raise UnreachableError(f"{address}: no answer in 15 s")
        home = self.folder / "homes" / address
        home.mkdir(parents=True, exist_ok=True)
        python = self.folder / "python.sock"
        forks = python if python.exists() else None
        yield FakeConnection(home, address=address, python=forks)

    def bundle(self, version: int, *, check: str = "good", serve: str = "good") -> Bundle:
        folder = self.folder / f"bundle-{version}"
        if record := recorded(folder):
            return Bundle(path=folder, record=record)
        made = make_bundle(folder, version=str(version), counter=version, check=check, serve=serve)
        return finished(made)

    def push(self, bundle: Bundle, *, dry_run: bool = False, only: str = "") -> Rollout:
        patches, report = Patches(), Together(self.report)

        def send(device: Device) -> Deployment:
            port = self._ports[device.address]
            return push(
                bundle,
                self.runtime,
                device,
                report,
                port=port,
                dry_run=dry_run,
                allow_unsigned=True,
                patches=patches,
            )

        fleet = self.fleet(only)
        return roll_out(release_of(bundle), send, fleet, report, opener=self.open, dry_run=dry_run)

    def serves(self) -> dict[str, str]:
        """Return the version that each board serves; empty for none."""
        found = {}
        for address, status in states(self.fleet(), self.open).items():
            assert isinstance(status, dict)
            found[address] = (status["release"] or {}).get("version", "")
        return found

    def names_on_disk(self) -> dict[str, str]:
        """Return the version that each board's `current` names, whose files are all whole.

        Read from the disk without a word of the product; empty for no release.
        """
        return {name: _on_disk(self.folder / "homes" / name / "store") for name in self.names}

    def stop(self) -> None:
        for name in self.names:
            if (self.folder / "homes" / name / "store").is_dir():
                with self.open(name) as connection:
                    Device(connection).call("stop")
        for port in self._kept_ports:
            port.close()


def _on_disk(store: Path) -> str:
    link = store / "current"
    if not link.is_symlink():
        return ""
    release = store / link.readlink()
    manifest = json.loads((release / "manifest.json").read_bytes())
    for file in manifest["files"]:
        content = (release / file["path"]).read_bytes()
        assert sha256(content).hexdigest() == file["sha256"], f"{release}: {file['path']}"
    return str(manifest["version"])


class Host:
    """A host that pushes, and is killed at its n-th event if so told.

    An event is what a board or the journal can see: a command, bytes to it (half of them are
    written), the end of them, a word of it that is heard, a line of the journal (half of it).
    """

    def __init__(self, folder: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.fleet", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def push(self, version: int, kill_at: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Push a version; return what became of the boards and how many events there were.

        Nothing became of them, and there were none, if it was killed.
        """
        assert self._child.stdin and self._child.stdout
        self._child.stdin.write(f"{version} {kill_at}\n")
        self._child.stdin.flush()
        outcomes, events = json.loads(self._child.stdout.readline())
        return outcomes, events

    def close(self) -> None:
        """End it."""
        with self._child:
            self._child.kill()


def main(folder: Path) -> None:
    """Push in a fork for each line, and print a line with what became of it."""
    for line in sys.stdin:
        version, kill_at = map(int, line.split())
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            with os.fdopen(writes, "w") as said:
                said.write(_pushed(folder, version, kill_at))
            os._exit(0)
        os.close(writes)
        with os.fdopen(reads) as heard:
            text = heard.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == (0 if text else -signal.SIGKILL), code
        sys.stdout.write(f"{text or [[], 0]}\n")
        sys.stdout.flush()


def _pushed(folder: Path, version: int, kill_at: int) -> str:
    events = _armed(kill_at)
    shop = Shop.read(folder)
    result = shop.push(shop.bundle(version))
    return json.dumps([[asdict(each) for each in result.outcomes], next(events) - 1])


def _armed(kill_at: int) -> Iterator[int]:
    """Count the events of this process; kill it at one of them."""
    events = itertools.count(1)

    def trap(real: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            if next(events) == kill_at:
                half(*words)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **named)

        return call

    def half_sent(channel: FakeChannel, chunk: bytes) -> None:
        real_send(channel, chunk[: len(chunk) // 2])

    def half_noted(journal: Journal, *_: Any) -> None:
        with journal.file.open("ab") as stream:
            stream.write(b'{"event": "boa')

    real_send = FakeChannel.send
    for name in ("__init__", "close_input", "read_line", "read", "finish"):
        setattr(FakeChannel, name, trap(getattr(FakeChannel, name), lambda *_: None))
    FakeChannel.send = trap(real_send, half_sent)  # type: ignore[method-assign]
    Journal.note = trap(Journal.note, half_noted)  # type: ignore[method-assign]
    return events


if __name__ == "__main__":
    main(Path(sys.argv[1]))
