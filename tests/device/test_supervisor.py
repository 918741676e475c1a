"""The supervisor's choices: what runs, what is on trial, and how a broken store is answered."""

from pathlib import Path

import pytest

from device import processes, supervisor
from device.errors import DeviceError
from device.store import RELEASES, Store
from device.supervisor import _bound, _Supervisor
from tests.device.test_store import deployment, release, runtime, store, switch_on

__all__ = ["runtime", "store"]


@pytest.fixture(autouse=True)
def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let releases run without a signature; their bytes are checked all the same."""

    def check(store: Store, wanted: object, check_bytes: object) -> None:
        store.check(RELEASES, wanted.release)  # type: ignore[attr-defined]

    monkeypatch.setattr(supervisor.trust, "check", check)


def damage(store: Store, name: str) -> None:
    file = store.folder(RELEASES, name) / "model.bin"
    file.chmod(0o600)
    file.write_bytes(b"rotten")


def test_a_board_without_a_release_has_nothing_to_run(store: Store) -> None:
    with pytest.raises(DeviceError) as caught:
        _Supervisor(store, 0)._choose()
    assert caught.value.code == "nothing_deployed"


def test_a_committed_release_runs_and_is_not_on_trial(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    wanted = deployment(release(store, tmp_path, "1"), runtime)
    switch_on(store, wanted)
    assert _Supervisor(store, 0)._choose() == (wanted, False)


def test_a_release_of_an_activation_under_way_is_on_trial(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    first = deployment(release(store, tmp_path, "1"), runtime)
    second = deployment(release(store, tmp_path, "2"), runtime)
    switch_on(store, first)
    with store.locked():
        store.switch(second, first)
        assert _Supervisor(store, 0)._choose() == (second, True)


def test_a_switch_without_a_commit_is_undone(store: Store, tmp_path: Path, runtime: str) -> None:
    first = deployment(release(store, tmp_path, "1"), runtime)
    switch_on(store, first)
    store.switch(deployment(release(store, tmp_path, "2"), runtime), first)
    assert _Supervisor(store, 0)._choose() == (first, False)
    assert store.current() == first


def test_a_rotten_release_is_replaced_by_the_one_before_it(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    first = deployment(release(store, tmp_path, "1"), runtime)
    second = deployment(release(store, tmp_path, "2"), runtime)
    switch_on(store, first)
    switch_on(store, second)
    damage(store, second.release)
    assert _Supervisor(store, 0)._choose() == (first, False)
    assert (store.current(), store.previous()) == (first, None)


def test_a_rotten_release_without_another_is_refused(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    only = deployment(release(store, tmp_path, "1"), runtime)
    switch_on(store, only)
    damage(store, only.release)
    with pytest.raises(DeviceError):
        _Supervisor(store, 0)._choose()


def test_a_pause_starts_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(self: _Supervisor) -> str:
        raise AssertionError("started during a pause")

    monkeypatch.setattr(_Supervisor, "_serve", serve)
    with processes.paused(store):
        assert _Supervisor(store, 0)._try() == ""


def test_a_bug_does_not_end_the_supervisor_and_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(self: _Supervisor) -> str:
        raise ValueError("a bug")

    monkeypatch.setattr(_Supervisor, "_serve", serve)
    assert _Supervisor(store, 0)._try() == "was refused: ValueError: a bug"
    assert "Traceback" in capsys.readouterr().err


def test_a_refusal_is_told_in_its_words(store: Store) -> None:
    assert _Supervisor(store, 0)._try() == "was refused: there is no release on this board"


def test_a_small_log_stays_and_a_large_one_keeps_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "service.log"
    log.write_bytes(b"0123456789")
    _bound(log)
    assert log.read_bytes() == b"0123456789"
    monkeypatch.setattr(supervisor, "LOG_LIMIT_BYTES", 8)
    _bound(log)
    assert log.read_bytes() == b"89"


def test_a_log_that_is_not_there_is_empty_afterwards(tmp_path: Path) -> None:
    _bound(tmp_path / "service.log")
    assert (tmp_path / "service.log").read_bytes() == b""
