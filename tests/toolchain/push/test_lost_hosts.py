"""A measurement whose host is gone ends, and the service never notices either of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def benches(store: Path) -> list[bytes]:
    """Return the command lines of all benches of a store."""
    return [
        words
        for words in processes()
        if os.fsencode(store / "runtimes") in words and b"\0bench\0" in words
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_bench_ends_with_its_host_and_the_service_goes_on(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, number: signal.Signals
) -> None:
    bundle = make_bundle(tmp_path / "b", bench="hang")
    push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    store = board.home / "store"
    serving = Device(board).call("status")["service"]["pid"]
    host = subprocess.Popen(
        [sys.executable, "-m", "toolchain", "bench", "local"],
        env={**os.environ, "HOME": str(board.home), "DEMITASSE_ROOT": str(store)},
        cwd=Path(__file__).parents[3],
        stderr=subprocess.DEVNULL,
        # A shell's background job ignores SIGINT, and so would all that it starts.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: benches(store))
        assert Device(board).call("status")["measuring"]["verb"] == "bench"
        assert Device(board).facts()["measuring"]["verb"] == "bench"
    finally:
        host.send_signal(number)
        host.wait()

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
    bundle = make_bundle(tmp_path / "b", bench="hang")
    push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    store = board.home / "store"
    monkeypatch.setenv("HOME", str(board.home))
    monkeypatch.setenv("DEMITASSE_ROOT", str(store))

    with open_board("local") as connection:
        device = Device(connection)
        with pytest.raises(BoardError, match="no end after 3 s"):
            device.call("bench", timeout_s=3.0)
        wait_until(lambda: not benches(store))
        assert device.call("status")["measuring"] is None
