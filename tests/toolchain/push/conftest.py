"""A board that is a folder, and what a push to it needs."""

import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_runtime
from tests.fakes.ports import free_port
from toolchain.board.device import Device
from toolchain.push import push

push_unsigned = partial(push, allow_unsigned=True)
"""As onto this computer; how a board asks for signatures is in tests/toolchain/test_signing.py."""


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return make_runtime(tmp_path / "runtime", machine=platform.machine())


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This computer keeps what it sent in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "demitasse" / "models"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[FakeConnection]:
    (tmp_path / "home").mkdir()
    made = FakeConnection(tmp_path / "home")
    yield made
    made.cut_after = None
    if (made.home / "store").is_dir():
        Device(made).call("stop")
