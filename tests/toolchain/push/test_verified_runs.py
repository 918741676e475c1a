"""A verb that the host runs in a board's runtime runs only what was verified."""

import platform
import shutil
from pathlib import Path

import pytest

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle, make_runtime
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
    assert not [words for words in board.commands if "leased" in words]
    shutil.rmtree(forged.parent) if place != "device" else None
    assert Device(board).call(verb)
    assert [words for words in board.commands if "leased" in words] != []


@pytest.mark.slow
def test_another_runtime_than_the_one_that_was_verified_is_verified_too(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    device = Device(board)
    push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port)
    device.verify(next((board.home / "store" / "runtimes").iterdir()).name)
    other = make_runtime(tmp_path / "other", machine=platform.machine(), extra_files=4)
    push_unsigned(make_bundle(tmp_path / "c", counter=2), other, Device(board), Silent(), port=port)
    installed = list((board.home / "store" / "runtimes").iterdir())
    assert len(installed) == 2
    for each in installed:
        (each / "device" / "forged.pyc").write_bytes(b"\0" * 16)
    with pytest.raises(BoardError, match="is not in the manifest"):
        device.call("check")
