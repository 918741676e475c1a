"""What a calibration found is kept beside a release, and runs it from then on."""

from pathlib import Path

import pytest

from device import tuned
from device.engine.base import Settings
from device.store import Store

FOUND = {
    "settings": {"threads": 2, "threads_batch": 4, "cpus": [4, 5], "flash": False},
    "evidence": {},
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Store(tmp_path / "store").folder("releases", "a" * 64)


def test_a_release_runs_with_what_was_found_and_its_own_context(bundle: Path) -> None:
    tuned.write(bundle, FOUND)
    assert tuned.apply(bundle, Settings(context=512)) == Settings(
        context=512, threads=2, threads_batch=4, cpus=(4, 5), flash=False
    )
    tuned.write(bundle, None)
    assert tuned.apply(bundle, Settings(context=512)) == Settings(context=512)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        '{"settings": {"threads": -1}}',
        '{"settings": {"threads": "many"}}',
        '{"settings": 1}',
        "[]",
    ],
)
def test_what_cannot_be_read_is_as_if_it_were_not_there(bundle: Path, content: str) -> None:
    tuned.write(bundle, FOUND)
    file = bundle.parent.parent / "tuned" / f"{bundle.name}.json"
    file.write_text(content)
    assert tuned.apply(bundle, Settings(context=512)) == Settings(context=512)


def test_a_bundle_outside_of_a_store_has_none(tmp_path: Path) -> None:
    assert tuned.apply(tmp_path, Settings()) == Settings()


def test_settings_go_with_their_release(tmp_path: Path, bundle: Path) -> None:
    tuned.write(bundle, FOUND)
    Store(tmp_path / "store").sweep()
    assert list((tmp_path / "store" / "tuned").iterdir()) == []
