"""A measurement whose host is gone ends, and the service never notices either of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.device.test_activation import processes
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle
from tests.toolchain.push.conftest import push_unsigned
from toolchain.board import open_board
from toolchain.board.device import Device
from toolchain.errors import BoardError, ToolError
from toolchain.progress import Silent
from toolchain.tools import openssh


@pytest.fixture(autouse=True)
def _an_ssh_server_is_installed() -> None:
    try:
        openssh.sshd()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


def wait_until(said: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not said():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def running(folder: Path, verb: str) -> list[bytes]:
    """Return the command lines of all processes that run a verb of a program in a folder."""
    return [
        words
        for words in processes()
        if os.fsencode(folder) + b"/" in words and f"\0{verb}\0".encode() in words
    ]


def benches(store: Path) -> list[bytes]:
    """Return the command lines of all benches of a store."""
    return running(store / "runtimes", "bench")


def measures(board: FakeConnection) -> int | None:
    """Return the process that measures a board; None if none does."""
    pid: int | None = (Device(board).call("status")["measuring"] or {}).get("pid")
    return pid


def pushed(board: FakeConnection, runtime: Path, bundle: Path, port: int) -> Path:
    """Have a board serve a bundle; return its store."""
    push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    return board.home / "store"


def host_of(board: FakeConnection, *words: str) -> "subprocess.Popen[bytes]":
    """Start a verb of the command line for a board, over a real sshd."""
    store = board.home / "store"
    return subprocess.Popen(
        [sys.executable, "-m", "toolchain", *words],
        env={**os.environ, "HOME": str(board.home), "DEMITASSE_ROOT": str(store)},
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A shell's background job ignores SIGINT, and so would all that it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def descendants(pid: int) -> list[int]:
    """Return the processes below one, parents before their children."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found[1:]


def sessions(host: int) -> list[int]:
    """Return the sshd processes below a host that serve a connection, not the one that listens."""
    return [
        pid
        for pid in descendants(host)
        if b"sshd" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"-D" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_bench_ends_with_its_host_and_the_service_goes_on(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, number: signal.Signals
) -> None:
    store = pushed(board, runtime, make_bundle(tmp_path / "b", bench="hang"), port)
    serving = Device(board).call("status")["service"]["pid"]
    host = host_of(board, "bench", "local")
    try:
        wait_until(lambda: benches(store))
        assert Device(board).call("status")["measuring"]["verb"] == "bench"
        assert Device(board).facts()["measuring"]["verb"] == "bench"
    finally:
        host.send_signal(number)
        host.communicate()

    wait_until(lambda: not benches(store))
    status = Device(board).call("status")
    assert status["measuring"] is None
    assert (status["service"]["healthy"], status["service"]["pid"]) == (True, serving)
    assert Device(board).call("check")["goldens"] == 8


@pytest.mark.slow
def test_a_bench_ends_when_the_host_gives_up_and_goes_on_with_its_work(
    board: FakeConnection,
    runtime: Path,
    tmp_path: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = pushed(board, runtime, make_bundle(tmp_path / "b", bench="hang"), port)
    monkeypatch.setenv("HOME", str(board.home))
    monkeypatch.setenv("DEMITASSE_ROOT", str(store))

    with open_board("local") as connection:
        device = Device(connection)
        with pytest.raises(BoardError, match="no end after 3 s"):
            device.call("bench", timeout_s=3.0)
        wait_until(lambda: not benches(store))
        assert device.call("status")["measuring"] is None


@pytest.mark.slow
def test_a_bench_ends_when_the_connection_is_gone(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    store = pushed(board, runtime, make_bundle(tmp_path / "b", bench="hang"), port)
    host = host_of(board, "bench", "local")
    wait_until(lambda: benches(store))
    for session in sessions(host.pid):
        os.kill(session, signal.SIGKILL)
    wait_until(lambda: not benches(store))
    assert "connection lost" in host.communicate(timeout=60)[0].decode()
    assert host.returncode == BoardError.exit_code
    assert Device(board).call("status")["measuring"] is None


@pytest.mark.slow
def test_of_two_hosts_one_measures_and_the_other_waits_for_it(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    store = pushed(board, runtime, make_bundle(tmp_path / "b", bench="hang"), port)
    hosts = [host_of(board, "bench", "local")]
    try:
        wait_until(lambda: benches(store))
        hosts.append(host_of(board, "bench", "local"))
        # It has its lease, and waits there for the first one's end.
        wait_until(lambda: len(running(store / "agents", "leased")) == 2)
        assert len(benches(store)) == 1
        lease = measures(board)
        hosts[0].kill()
        hosts[0].wait()
        wait_until(lambda: measures(board) not in (None, lease))
        assert hosts[1].poll() is None
    finally:
        for host in hosts:
            host.kill()
            host.communicate()
    wait_until(lambda: not benches(store))
    assert Device(board).call("status")["measuring"] is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_calibration_ends_with_its_host_and_the_release_runs_as_before(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, number: signal.Signals
) -> None:
    store = pushed(board, runtime, make_bundle(tmp_path / "b", search="hang"), port)
    host = host_of(board, "calibrate", "local", "--budget", "1")
    try:
        wait_until(lambda: running(store / "runtimes", "search"))
        status = Device(board).call("status")
        assert [status[name]["verb"] for name in ("measuring", "changing")] == ["calibrate"] * 2
    finally:
        host.send_signal(number)
        host.communicate()

    wait_until(lambda: Device(board).call("status")["changing"] is None)
    status = Device(board).call("status")
    assert running(store / "runtimes", "search") == []
    assert (status["service"]["healthy"], status["measuring"]) == (True, None)


@pytest.mark.slow
def test_a_switch_goes_on_when_its_host_is_gone_and_status_says_so(
    board: FakeConnection,
    runtime: Path,
    tmp_path: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = Device(board)
    late = push_unsigned(
        make_bundle(tmp_path / "b", check="late"), runtime, device, Silent(), port=port
    )
    push_unsigned(make_bundle(tmp_path / "a"), runtime, device, Silent(), port=port)
    current = device.call("status")["release"]
    monkeypatch.setenv("HOME", str(board.home))
    monkeypatch.setenv("DEMITASSE_ROOT", str(board.home / "store"))
    how = ["--port", str(port), "--service", "supervised", "--allow-unsigned"]
    with open_board("local") as connection, pytest.raises(BoardError, match="no end after"):
        words = [late.release, "--runtime", current["runtime"], *how]
        Device(connection).call("activate", *words, timeout_s=2.0)

    busy = device.call("status")["changing"]
    assert busy["verb"] == "activate"
    with pytest.raises(BoardError, match=rf"`activate`, process {busy['pid']}, for \d+ s"):
        device.call("stop")
    wait_until(lambda: device.call("status")["changing"] is None)
    status = device.call("status")
    assert (status["release"]["release"], status["confirmed"]) == (late.release, True)
    assert status["service"]["healthy"]
