"""A verb that the host runs in a board's runtime runs only what was verified."""

import shutil
from pathlib import Path

import pytest

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle
from tests.toolchain.push.conftest import push_unsigned
from toolchain.board.device import Device
from toolchain.errors import BoardError
from toolchain.progress import Silent


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check", "bench"])
@pytest.mark.parametrize("place", ["__pycache__", "device/__pycache__", "device"])
def test_byte_code_in_a_runtime_is_named_and_not_run(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, place: str, verb: str
) -> None:
    push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port)
    installed = next((board.home / "store" / "runtimes").iterdir())
    forged = installed / place / "forged.pyc"
    forged.parent.mkdir(exist_ok=True)
    forged.write_bytes(b"\0" * 16)
    board.commands.clear()

    with pytest.raises(BoardError, match=f"`{place}/forged.pyc` is not in the manifest"):
        Device(board).call(verb)
    assert not [words for words in board.commands if any("runtimes/" in word for word in words)]
    shutil.rmtree(forged.parent) if place != "device" else None
    assert Device(board).call(verb)
