"""Several formats on one board: those that it cannot run are left out, each with its reason."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.fakes.board import FakeConnection
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.ports import free_port
from toolchain import delivery, runtime
from toolchain.artifacts import Report
from toolchain.board.device import Device
from toolchain.delivery import Terms
from toolchain.errors import FitError, HealthError, ToolchainError
from toolchain.recipe import PackageSpec

HUGE = {"weights_bytes": 1 << 50, "kv_bytes": 1 << 20, "compute_bytes": 1 << 20}
PRODUCT = SimpleNamespace(id="two", question="", package=PackageSpec(), choose="fastest")


@pytest.fixture
def terms() -> Terms:
    return Terms(port=free_port(), allow_unsigned=True)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    folder = make_runtime(tmp_path / "runtime", machine=platform.machine())
    # The runtime that is built for a board takes minutes; this one speaks the same protocol.
    monkeypatch.setattr(runtime, "for_board", lambda *_: folder)
    home = tmp_path / "home"
    home.mkdir()
    made = Device(FakeConnection(home))
    yield made
    with suppress(ToolchainError):  # nothing runs where every format was refused
        made.call("stop")


@pytest.mark.slow
def test_if_a_board_can_run_no_format_each_ones_reason_is_said(
    tmp_path: Path, device: Device, terms: Terms
) -> None:
    bundles = [
        finished(make_bundle(tmp_path / "a", name="a", needs=HUGE)),
        finished(make_bundle(tmp_path / "b", name="b", check="refuse")),
    ]
    report = Recorder()
    with pytest.raises((FitError, HealthError)) as caught:
        delivery._try_all(PRODUCT, bundles, device, report, terms)
    assert isinstance(caught.value, FitError)
    assert [type(each) for each in caught.value.others] == [HealthError]
    left_out = [note for note in report.notes if " is left out: " in note]
    assert len(left_out) == 2


@pytest.mark.slow
def test_a_format_that_the_board_refuses_leaves_the_others(
    tmp_path: Path, device: Device, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = [
        finished(make_bundle(tmp_path / "a", name="a", needs=HUGE)),
        finished(make_bundle(tmp_path / "b", name="b")),
        finished(make_bundle(tmp_path / "c", name="c", version="1.1", check="refuse")),
    ]
    # The service of the fake runtime answers no questions that could be timed.
    measured = Report(board="local", emulated=False, rows=[], measured={})
    monkeypatch.setattr(delivery, "bench", lambda *_, **__: measured)
    tried, refused = delivery._try_all(PRODUCT, bundles, device, Recorder(), terms)
    assert [bundle for bundle, _ in tried] == [bundles[1]]
    assert list(refused) == ["model.bin"]
    # What was refused later is rolled back: the format that passed is the one that answers.
    assert device.call("status")["release"]["release"] == tried[0][1].deployment.release
