"""Where systemd is, a user unit does the work: what is written and what systemctl is told."""

import os
from pathlib import Path

import pytest

from device import processes, service
from device.disk import write_note
from device.errors import DeviceError
from device.store import Store

SYSTEMCTL = """#!/bin/sh
echo "$@" >>"{log}"
shift
case "$1" in
    is-system-running) echo running ;;
    enable) exit {enable} ;;
esac
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Store(tmp_path / ".local" / "share" / "demitasse")


def fake_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, enable: int = 0) -> Path:
    """Put a systemctl into PATH that writes down what it is told."""
    folder, log = tmp_path / "bin", tmp_path / "systemctl.log"
    folder.mkdir()
    (folder / "systemctl").write_text(SYSTEMCTL.format(log=log, enable=enable))
    (folder / "loginctl").write_text(f'#!/bin/sh\necho "loginctl $@" >>"{log}"\n')
    for program in folder.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


def test_the_unit_runs_what_is_current_and_is_started_now_and_at_boot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_systemctl(tmp_path, monkeypatch)
    assert service.kind_here() == "systemd"
    service.choose(store, "systemd").start()
    unit = (tmp_path / ".config" / "systemd" / "user" / "demitasse.service").read_text()
    assert f'"supervise" "--root" "{store.root}"' in unit
    assert "Restart=always" in unit
    assert "WantedBy=default.target" in unit
    told = log.read_text().splitlines()
    assert told[1:] == [
        "--user daemon-reload",
        "--user reset-failed demitasse.service",
        "--user enable demitasse.service",
        "--user restart demitasse.service",
        "loginctl enable-linger",
    ]


def test_stopping_keeps_the_unit_from_starting_at_boot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fake_systemctl(tmp_path, monkeypatch)
    service.choose(store, "systemd").stop()
    assert log.read_text() == "--user disable --now demitasse.service\n"


def test_a_unit_that_cannot_be_enabled_is_an_error_of_ours(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_systemctl(tmp_path, monkeypatch, enable=1)
    with pytest.raises(DeviceError, match="systemctl --user enable") as caught:
        service.choose(store, "systemd").start()
    assert caught.value.code == "systemd"


def test_how_the_service_ended_is_told_until_it_is_started_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_systemctl(tmp_path, monkeypatch)
    write_note(store.root / "run" / "ended.json", {"how": "ended with exit status 3"})
    systemd = service.choose(store, "systemd")
    assert systemd.failure() == "ended with exit status 3"
    systemd.start()
    assert systemd.failure() == ""


def test_without_systemd_the_service_says_that_a_reboot_ends_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert service.kind_here() == "supervised"
    supervised = service.choose(store, "supervised")
    assert (supervised.survives_reboot, supervised.pid(), supervised.failure()) == (False, None, "")
    assert "the service ends when the board goes off" in supervised.hint


def test_a_store_elsewhere_has_a_unit_of_its_own(store: Store) -> None:
    assert service.unit_name(store.root) == "demitasse.service"
    assert service.unit_name(Path("/opt/other")) == "demitasse-opt-other.service"


def test_a_path_with_spaces_and_percent_signs_is_one_word_of_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fake_systemctl(tmp_path, monkeypatch)
    service.choose(Store(tmp_path / "a b%c"), "systemd").start()
    unit = next((tmp_path / ".config" / "systemd" / "user").iterdir()).read_text()
    assert f'"{tmp_path}/a b%%c"' in unit


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "ended with exit status 1"),
        (-4, "died by signal 4 (illegal instruction)"),
        (-9, "died by signal 9 (killed, most likely out of memory)"),
        (-11, "died by signal 11 (segmentation fault)"),
    ],
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert processes.how_it_ended(code) == words
