"""Scrubbing a store: everything is read, each rotten file is named once, and copies are mended."""

import json
from pathlib import Path
from typing import Any

import pytest

from device.scrub import scrub
from device.store import RELEASES, Store
from tests.device.test_store import deployment, release, runtime, store, switch_on

__all__ = ["runtime", "store"]


@pytest.fixture
def current(store: Store, tmp_path: Path, runtime: str) -> str:
    """Return a release that is switched on, and whose owner stopped it: no service is started."""
    name = release(store, tmp_path, "1")
    switch_on(store, deployment(name, runtime))
    store.note_stopped()
    return name


def scrubbed(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert scrub(["--root", str(store.root)]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)


def test_a_sound_store_is_read_whole_and_nothing_is_named(
    store: Store, current: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = scrubbed(store, capsys)
    assert (seen["rotten"], seen["hint"]) == ([], "")
    assert seen["read_bytes"] == store.size_bytes()
    assert seen["blobs"] == len(list((store.root / "blobs").iterdir()))


def test_a_rotten_blob_is_named_by_the_files_that_it_is_and_taken_away(
    store: Store, current: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = store.read_release(current).file("model.bin")
    spoil(store.blob(entry.sha256))
    seen = scrubbed(store, capsys)
    assert seen["rotten"] == [{"in": current, "kind": "release", "what": "`model.bin` has rotted"}]
    assert seen["hint"] == "push the release again"
    assert not store.blob(entry.sha256).exists()


def test_a_manifest_that_has_rotted_is_the_fault_of_its_release(
    store: Store, current: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(store.folder(RELEASES, current) / "manifest.json")
    faults = scrubbed(store, capsys)["rotten"]
    assert [(fault["in"], fault["kind"]) for fault in faults] == [(current, "release")]


def test_a_part_of_a_blob_that_is_arriving_is_left_alone(
    store: Store, current: str, capsys: pytest.CaptureFixture[str]
) -> None:
    part = store.part("0" * 64)
    part.write_bytes(b"half")
    assert scrubbed(store, capsys)["rotten"] == []
    assert part.read_bytes() == b"half"


def test_a_rotten_agent_is_taken_away_to_be_sent_again(
    store: Store, current: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.root / "agents").mkdir()
    agent = store.root / "agents" / f"{'0' * 64}.pyz"
    agent.write_bytes(b"rotten")
    assert "is sent again" in scrubbed(store, capsys)["rotten"][0]["what"]
    assert not agent.exists()


def test_a_broken_file_of_settings_is_taken_away_to_be_made_anew(
    store: Store, current: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (store.root / "tuned").mkdir()
    file = store.root / "tuned" / f"{current}.json"
    file.write_text("{")
    assert "is made anew" in scrubbed(store, capsys)["rotten"][0]["what"]
    assert not file.exists()
