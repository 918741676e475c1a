"""push: look, plan, act, through the real protocol on a board that is a folder."""

import os
from pathlib import Path

import pytest

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle
from tests.fakes.datasets import Recorder
from tests.toolchain.push.conftest import push_unsigned
from toolchain.artifacts import Action
from toolchain.board import open_board
from toolchain.board.device import Device
from toolchain.errors import (
    BoardError,
    HealthError,
    ToolchainError,
    TrustError,
)
from toolchain.progress import Silent


def test_a_push_sends_installs_and_serves(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    deployment = push_unsigned(
        make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port
    )
    assert (deployment.name, deployment.version, deployment.address, deployment.port) == (
        "tiny",
        "1.0",
        "local",
        port,
    )
    assert deployment.bytes_sent == sum(action.size_bytes for action in deployment.actions)
    status = Device(board).call("status")
    assert status["release"]["release"] == deployment.release
    assert status["service"]["healthy"] is True


LONGEST = {"--check-timeout": "900", "--health-timeout": "300"}


@pytest.mark.slow
@pytest.mark.parametrize(("address", "limits"), [("local", {}), ("virtual:rpi-4b-2gb", LONGEST)])
def test_only_an_emulated_board_gets_the_longest_times_whatever_a_release_weighs(
    board: FakeConnection,
    runtime: Path,
    tmp_path: Path,
    port: int,
    address: str,
    limits: dict[str, str],
) -> None:
    named = FakeConnection(board.home, address=address)
    push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(named), Silent(), port=port)
    words = next(list(command) for command in named.commands if "activate" in command)
    assert {
        word: words[number + 1] for number, word in enumerate(words) if word.endswith("-timeout")
    } == limits


@pytest.mark.slow
def test_the_same_release_again_sends_no_byte(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    bundle = make_bundle(tmp_path / "b")
    push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    again = push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    assert again.bytes_sent == 0
    assert [action.verb for action in again.actions] == ["activate"]


@pytest.mark.slow
def test_the_next_release_sends_only_what_changed(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    push_unsigned(
        make_bundle(tmp_path / "b", payload=b"x" * 100_000),
        runtime,
        Device(board),
        Silent(),
        port=port,
    )
    second = make_bundle(tmp_path / "c", version="2", payload=b"x" * 100_000, counter=2)
    deployment = push_unsigned(second, runtime, Device(board), Silent(), port=port)
    assert deployment.bytes_sent == (second.path / "manifest.json").stat().st_size


@pytest.mark.slow
def test_a_dry_run_shows_the_bytes_and_writes_nothing(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    planned = push_unsigned(
        make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port, dry_run=True
    )
    assert planned.bytes_sent == 0
    assert [action.what.split()[0] for action in planned.actions] == [
        "agent",
        "runtime",
        "release",
        "tiny",
    ]
    assert all(action.size_bytes > 0 for action in planned.actions[:-1])
    assert not (board.home / "store").exists()
    carried_out = push_unsigned(
        make_bundle(tmp_path / "again"), runtime, Device(board), Silent(), port=port
    )
    assert carried_out.actions == planned.actions
    assert isinstance(planned.actions[0], Action)


@pytest.mark.slow
def test_progress_is_told_while_it_sends_and_before_it_switches(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    report = Recorder()
    push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(board), report, port=port)
    assert report.bars == {"send"}
    assert report.notes == [
        "local: tiny 1.0: load, goldens, switch",
        "local: 8 goldens, equal token for token",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("cut_after", [1_000, 100_000, 300_000, 1_500_000, 3_100_000])
def test_a_cut_push_goes_on_where_it_stopped(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, cut_after: int
) -> None:
    bundle = make_bundle(tmp_path / "b", payload=os.urandom(3_000_000))
    whole = sum(
        action.size_bytes
        for action in push_unsigned(
            bundle, runtime, Device(board), Silent(), port=port, dry_run=True
        ).actions
    )
    board.cut_after, board.sent = cut_after, 0
    with pytest.raises(BoardError, match=f"local: connection lost at byte {cut_after:,}"):
        push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    store = board.home / "store"
    there = sum(
        file.stat().st_size for folder in ("agents", "blobs") for file in store.glob(f"{folder}/*")
    )
    board.cut_after = None
    assert (
        push_unsigned(bundle, runtime, Device(board), Silent(), port=port).bytes_sent
        == whole - there
    )
    assert Device(board).call("status")["service"]["healthy"] is True


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("bundle", "kind", "message"),
    [
        (
            {"check": "refuse"},
            HealthError,
            "local: the check failed: golden 3 differs; nothing runs: there was no release before",
        ),
        (
            {"check": "illegal"},
            HealthError,
            "local: the check died by signal 4 (illegal instruction); "
            "nothing runs: there was no release before",
        ),
        (
            {"serve": "exit"},
            HealthError,
            "local: the service ended with exit status 3; "
            "nothing runs: there was no release before",
        ),
    ],
)
def test_what_fails_on_the_board_is_an_error_of_ours(
    board: FakeConnection,
    runtime: Path,
    tmp_path: Path,
    port: int,
    bundle: dict[str, str],
    kind: type[ToolchainError],
    message: str,
) -> None:
    with pytest.raises(kind) as caught:
        push_unsigned(
            make_bundle(tmp_path / "b", **bundle), runtime, Device(board), Silent(), port=port
        )  # type: ignore[arg-type]
    assert caught.value.message == message


@pytest.mark.slow
def test_a_downgrade_is_a_matter_of_trust(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    push_unsigned(
        make_bundle(tmp_path / "b", counter=5), runtime, Device(board), Silent(), port=port
    )
    with pytest.raises(TrustError) as caught:
        push_unsigned(
            make_bundle(tmp_path / "c", version="0.9", counter=4),
            runtime,
            Device(board),
            Silent(),
            port=port,
        )
    assert caught.value.message == "local: tiny 0.9 has counter 4, this board had 5 already"
    assert caught.value.exit_code == 8


@pytest.mark.slow
def test_a_second_push_at_the_same_time_is_refused(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    with Device(board).talk("receive") as channel:
        channel.send(b'{"op": "release", "size": 1}\n')
        lock = board.home / "store" / "lock"
        while not lock.exists():
            pass
        with pytest.raises(
            BoardError, match="local: another push or activation is under way on this board"
        ):
            push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port)


@pytest.mark.slow
def test_names_of_a_push_reach_the_boards_status(
    board: FakeConnection, runtime: Path, port: int, tmp_path: Path
) -> None:
    names = ("--host-name", "kitchen-pi.local", "--cors-origin", "http://pi.example:3000")
    push_unsigned(
        make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port, names=names
    )
    release = Device(board).call("status")["release"]
    assert release["host_names"] == ["kitchen-pi.local"]
    assert release["cors_origins"] == ["http://pi.example:3000"]


@pytest.mark.slow
def test_a_push_over_real_ssh_serves_sends_nothing_twice_and_can_be_asked(
    runtime: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMITASSE_ROOT", str(tmp_path / "store"))
    bundle = make_bundle(tmp_path / "b", payload=os.urandom(1_000_000))
    with open_board("local") as board:
        assert (
            push_unsigned(bundle, runtime, Device(board), Silent(), port=port).bytes_sent
            > 1_000_000
        )
        assert push_unsigned(bundle, runtime, Device(board), Silent(), port=port).bytes_sent == 0
        device = Device(board)
        assert device.call("status")["service"]["healthy"] is True
        assert device.call("stop")["service"]["healthy"] is False
