"""A fleet of boards that are folders: real commands, the real protocol, no SSH.

`python -m tests.fakes.fleet FOLDER VERSION` pushes that version to the fleet in a folder and says
what became of each board: a host that can be killed.
"""

import json
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from toolchain.artifacts import Bundle, Deployment, recorded
from toolchain.board.device import Device
from toolchain.delivery import release_of
from toolchain.errors import UnreachableError
from toolchain.fleet.boards import states
from toolchain.fleet.inventory import Fleet, open_fleet
from toolchain.fleet.reaching import Together
from toolchain.fleet.rollout import Rollout, roll_out
from toolchain.push import push
from toolchain.push.delta import Patches


class Shop:
    """Some boards, each a folder with a port of its own; those in `off` cannot be reached."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.folder, self.names, self._ports = folder, list(ports), ports
        self.off: set[str] = set()
        self.report = Recorder()
        self.runtime = folder / "runtime"

    @classmethod
    def make(cls, folder: Path, names: list[str], rollout: str = 'soak = "0s"') -> "Shop":
        """Make a fleet in a folder; `rollout` are the lines of that table."""
        ports = {name: free_port() for name in names}
        rows = "".join(f'[[boards]]\naddress = "{name}"\n' for name in names)
        (folder / "shop.toml").write_text(f"{rows}[rollout]\n{rollout}\n", encoding="utf-8")
        (folder / "ports.json").write_text(json.dumps(ports), encoding="utf-8")
        make_runtime(folder / "runtime", machine=platform.machine())
        return cls(folder, ports)

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
        yield FakeConnection(home, address=address)

    def bundle(self, version: int, **moods: str) -> Bundle:
        folder = self.folder / f"bundle-{version}"
        if record := recorded(folder):
            return Bundle(path=folder, record=record)
        return finished(make_bundle(folder, version=str(version), counter=version, **moods))

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

    def stop(self) -> None:
        for name in self.names:
            if (self.folder / "homes" / name / "store").is_dir():
                with self.open(name) as connection:
                    Device(connection).call("stop")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(folder: Path, version: int) -> None:
    """Push a version that was made before, and print what became of each board."""
    shop = Shop.read(folder)
    result = shop.push(shop.bundle(version))
    sys.stdout.write(json.dumps([asdict(each) for each in result.outcomes]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
