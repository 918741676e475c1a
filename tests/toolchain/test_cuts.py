"""A connection that dies at any byte, in either direction: the next push goes on there, and nothing
is left lying about.
"""

import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Rounds
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.line import line
from tests.fakes.ports import free_port
from tests.fakes.updates import make_update
from toolchain.artifacts import Bundle
from toolchain.board import loopback, ssh
from toolchain.board.device import Device
from toolchain.board.route import Route
from toolchain.errors import BoardError
from toolchain.progress import Silent
from toolchain.push import push
from toolchain.push.transfer import READ_BYTES

GOLDEN = 0.6180339887
"""Multiples of it, less the whole ones, lie evenly between 0 and 1 however many there are (H. Weyl,
1916).
"""
ASKING_BYTES = 96 << 10
"""What a push sends besides files: the facts' own program, requests, a manifest."""

WINDOW_BYTES = 2 << 20
"""What OpenSSH's server lets us send before its program has read it (channels.h,
CHAN_SES_WINDOW_DEFAULT): a reset throws it away.
"""


class Exchange:
    """A push onto a board that is made anew, with what the board holds before."""

    def __init__(self, folder: Path, runtime: Path, before: Bundle | None, bundle: Bundle) -> None:
        self._folder, self._runtime, self._before, self.bundle = folder, runtime, before, bundle

    def board(self) -> FakeConnection:
        board = FakeConnection(Path(tempfile.mkdtemp(dir=self._folder)))
        if self._before:
            self.push(board, self._before)
        board.sent = board.heard = 0
        return board

    def push(self, board: FakeConnection, bundle: Bundle) -> int:
        return push(
            bundle, self._runtime, Device(board), Silent(), port=free_port(), allow_unsigned=True
        ).bytes_sent


@pytest.fixture
def exchanges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Exchange, Exchange]:
    """Yield a first push of everything, and the push of an update as what changed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runtime, (old, new) = (
        make_runtime(tmp_path / "runtime", machine=platform.machine()),
        make_update(tmp_path),
    )
    first = make_bundle(tmp_path / "first", payload=os.urandom(3_000_000))
    before = make_bundle(tmp_path / "before", gguf=old)
    return (
        Exchange(tmp_path, runtime, None, first),
        Exchange(
            tmp_path,
            runtime,
            before,
            make_bundle(tmp_path / "update", version="2", counter=2, gguf=new),
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak(row=12, short=12, whole=400)
def test_a_push_that_is_cut_anywhere_is_finished_by_the_next_one(
    exchanges: tuple[Exchange, Exchange], rounds: Rounds
) -> None:
    """In make soak 100 points of each exchange and direction: of all that is said between host and
    board, first look to last answer.
    """
    whole: dict[Exchange, tuple[int, int]] = {}
    for number in rounds:
        exchange, deaf, place = exchanges[number % 2], number // 2 % 2, number // 4 * GOLDEN % 1
        if exchange not in whole:
            calm = exchange.board()
            exchange.push(calm, exchange.bundle)
            whole[exchange] = calm.sent, calm.heard
            Device(calm).call("stop")
        sent, heard = whole[exchange]
        board = exchange.board()
        board.cut_after, board.deaf_after = (
            (None, int(place * heard)) if deaf else (int(place * sent), None)
        )
        with pytest.raises(BoardError, match="local: connection lost at byte"):
            exchange.push(board, exchange.bundle)
        board.cut_after = board.deaf_after = None
        exchange.push(board, exchange.bundle)
        status = Device(board).call("status")
        assert status["service"]["healthy"] and status["confirmed"]
        assert board.sent <= sent + READ_BYTES + ASKING_BYTES
        assert sorted(path.name for path in (board.home / "store").rglob("*.part")) == []
        Device(board).call("stop")
        rounds.saw(
            f"cut {'from' if deaf else 'to'} the board, "
            f"{'an update' if number % 2 else 'a first push'}: finished"
        )


@pytest.mark.slow
def test_a_real_ssh_connection_that_is_cut_is_finished_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a TCP line that breaks with a reset: in the handshake, in the login, in the files, in
    the answers.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runtime = make_runtime(tmp_path / "runtime", machine=platform.machine())
    bundle = make_bundle(tmp_path / "b", payload=os.urandom(6_000_000))
    with loopback.server() as way:
        monkeypatch.setenv("DEMITASSE_ROOT", str(tmp_path / "calm"))
        there, back = _over_ssh(way, runtime, bundle)
        for number, limits in enumerate(
            {name: int(share * total)}
            for name, total in (("there", there), ("back", back))
            for share in (0.001, 0.3, 0.7, 0.97)
        ):
            store = tmp_path / f"store{number}"
            monkeypatch.setenv("DEMITASSE_ROOT", str(store))
            with pytest.raises(BoardError):
                _over_ssh(way, runtime, bundle, **limits)
            again = _over_ssh(way, runtime, bundle)[0]
            assert (
                again
                <= there - limits.get("there", 0) + READ_BYTES + WINDOW_BYTES + 2 * ASKING_BYTES
            )
            assert sorted(path.name for path in store.rglob("*.part")) == []


def _over_ssh(way: Route, runtime: Path, bundle: Bundle, **limits: int) -> tuple[int, int]:
    """Push through a line that breaks after so many bytes, and stop the service; return the bytes
    there and back.
    """
    with line(way.port, **limits) as wire:
        connection = ssh.dial(replace(way, port=wire.port))
        device, port = Device(connection), free_port()
        try:
            push(bundle, runtime, device, Silent(), port=port, allow_unsigned=True)
            carried = wire.carried[0], wire.carried[1]
            Device(connection).call("stop")
            return carried
        finally:
            connection.close()
