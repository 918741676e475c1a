"""Roll-outs over boards that are folders: real commands, the real protocol, no SSH."""

import json
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from toolchain.artifacts import Bundle, Deployment
from toolchain.board.device import Device
from toolchain.delivery import release_of
from toolchain.errors import UnreachableError
from toolchain.fleet.boards import roll_back, states
from toolchain.fleet.inventory import Fleet, open_fleet
from toolchain.fleet.journal import Journal
from toolchain.fleet.reaching import Together
from toolchain.fleet.rollout import Rollout, roll_out
from toolchain.push import push
from toolchain.push.delta import Patches


class Shop:
    """Some boards, each a folder with a port of its own; those in `off` cannot be reached."""

    def __init__(
        self, folder: Path, names: list[str], *, soak: str = "0s", waves: str = ""
    ) -> None:
        self.folder, self.names = folder, names
        self.off: set[str] = set()
        self.report = Recorder()
        self.runtime = make_runtime(folder / "runtime", machine=platform.machine())
        self._ports = {name: free_port() for name in names}
        rows = "".join(f'[[boards]]\naddress = "{name}"\n' for name in names)
        how = f'[rollout]\nsoak = "{soak}"\n{waves and f"waves = {waves}"}\n'
        (folder / "shop.toml").write_text(rows + how, encoding="utf-8")

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
        return make_bundle(folder, version=str(version), counter=version, **moods)

    def push(self, bundle: Bundle, *, dry_run: bool = False, only: str = "") -> Rollout:
        patches, report = Patches(), Together(self.report)

        def send(device: Device) -> Deployment:
            port = self._ports[device.address]
            how = {"dry_run": dry_run, "allow_unsigned": True, "patches": patches}
            return push(bundle, self.runtime, device, report, port=port, **how)  # type: ignore[arg-type]

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


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Shop(tmp_path, ["pi@a", "pi@b", "pi@c"])
    yield made
    made.off = set()
    made.stop()


def seen(result: Rollout) -> dict[str, str]:
    return {each.address: each.state for each in result.outcomes}


@pytest.mark.slow
def test_boards_that_are_off_wait_and_the_next_run_finishes_them_alone(shop: Shop) -> None:
    shop.off = {"pi@b"}
    bundle = shop.bundle(1)
    first = shop.push(bundle)
    assert (seen(first), first.exit_code) == (
        {"pi@a": "done", "pi@b": "waiting", "pi@c": "done"},
        0,
    )
    shop.off = set()
    second = shop.push(bundle)
    assert seen(second) == {"pi@a": "same", "pi@b": "done", "pi@c": "same"}
    assert [each.bytes_sent for each in second.outcomes if each.state == "same"] == [0, 0]
    assert set(shop.serves().values()) == {"1"}


@pytest.mark.slow
def test_a_bad_release_touches_one_board_which_takes_it_back(shop: Shop) -> None:
    shop.push(shop.bundle(1))
    result = shop.push(shop.bundle(2, check="refuse"))
    assert seen(result) == {"pi@a": "failed", "pi@b": "untouched", "pi@c": "untouched"}
    assert result.exit_code == 9
    assert "golden 3 differs" in result.outcomes[0].message
    assert set(shop.serves().values()) == {"1"}
    assert result.stopped == "1 of 1 board failed in wave 1"


@pytest.mark.slow
def test_what_the_last_push_brought_is_taken_back_once(shop: Shop) -> None:
    shop.push(shop.bundle(1))
    shop.push(shop.bundle(2), only="pi@a")
    assert shop.serves() == {"pi@a": "2", "pi@b": "1", "pi@c": "1"}
    for _ in range(2):
        after = roll_back(shop.fleet(), shop.open)
        assert [state is None for state in after.values()][1:] == [True, True]
        assert set(shop.serves().values()) == {"1"}


def test_a_dry_run_asks_each_board_and_changes_nothing(shop: Shop) -> None:
    result = shop.push(shop.bundle(1), dry_run=True)
    assert set(seen(result).values()) == {"done"}
    assert all(each.message.startswith("would get ") for each in result.outcomes)
    assert not shop.fleet().journal.exists()
    assert not (shop.folder / "homes" / "pi@a" / "store").exists()


def test_the_journal_survives_a_line_that_was_torn(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "shop.journal.jsonl")
    assert (journal.last_release(), journal.soaked("one")) == ("", set())
    journal.note("begin", release="one")
    journal.note("soaked", release="one", boards=["pi@a"])
    with journal.file.open("ab") as stream:
        stream.write(b'{"event": "begin", "rele')
    journal.note("begin", release="two")
    assert journal.last_release() == "two"
    assert journal.soaked("one") == {"pi@a"}
    assert [json.loads(line)["event"] for line in _whole_lines(journal.file)] == [
        "begin",
        "soaked",
        "begin",
    ]


def _whole_lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.endswith("}")]
