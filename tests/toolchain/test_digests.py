"""A large file that nobody touched is read once a day; any change has it read again."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from toolchain import digests
from toolchain.digests import file_digest

YESTERDAY_S = 24 * 3600.0


@pytest.fixture(autouse=True)
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and a limit below which every file of these tests would be."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE_BYTES", 4)
    monkeypatch.setattr(digests, "SETTLED_S", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.write_bytes(b"old bytes")
    return made


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def remembered(tmp_path: Path) -> dict[str, dict[str, object]]:
    kept = tmp_path / "cache" / "demitasse" / "digests.json"
    found: dict[str, dict[str, object]] = json.loads(kept.read_text()) if kept.exists() else {}
    return found


def lie(tmp_path: Path, **fields: object) -> None:
    """Change what is remembered: a digest that is believed shows that nothing was read."""
    kept = tmp_path / "cache" / "demitasse" / "digests.json"
    kept.write_text(
        json.dumps({key: {**seen, **fields} for key, seen in remembered(tmp_path).items()})
    )


def test_a_file_that_nobody_touched_is_not_read_again(tmp_path: Path, file: Path) -> None:
    assert file_digest(file) == sha256(b"old bytes")
    lie(tmp_path, sha256="a" * 64)
    assert file_digest(file) == "a" * 64


def test_what_leaves_is_read_whatever_is_remembered(tmp_path: Path, file: Path) -> None:
    file_digest(file)
    lie(tmp_path, sha256="a" * 64)
    assert file_digest(file, anew=True) == sha256(b"old bytes")
    assert file_digest(file) == sha256(b"old bytes"), "what was read is believed from now on"


def test_a_change_that_hides_behind_its_old_times_is_seen(file: Path) -> None:
    file_digest(file)
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"new bytes")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file_digest(file) == sha256(b"new bytes")


def test_another_file_in_its_place_is_read(tmp_path: Path, file: Path) -> None:
    file_digest(file)
    before = file.stat()
    other = tmp_path / "other"
    other.write_bytes(b"new bytes")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert file_digest(file) == sha256(b"new bytes")


def test_a_file_that_was_just_written_is_not_remembered(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", 10.0)
    file_digest(file)
    assert remembered(tmp_path) == {}


def test_a_file_of_the_future_is_not_remembered(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", 10.0)
    os.utime(file, (time.time() + 3600, time.time() + 3600))
    file_digest(file)
    assert remembered(tmp_path) == {}


def test_a_small_file_is_read_every_time(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LARGE_BYTES", 10)
    file_digest(file)
    assert remembered(tmp_path) == {}


@pytest.mark.parametrize("ago_s", [YESTERDAY_S + 60, -60.0], ids=["a day ago", "in the future"])
def test_what_was_read_long_ago_or_by_another_clock_is_read_again(
    tmp_path: Path, file: Path, ago_s: float
) -> None:
    file_digest(file)
    lie(tmp_path, sha256="a" * 64, at=time.time() - ago_s)
    assert file_digest(file) == sha256(b"old bytes")


@pytest.mark.parametrize(
    "rotten", ["", "[]", "{", '{"1 2 3 4 5": "a"}', '{"1 2 3 4 5": {"sha256": "a", "at": 1}}']
)
def test_a_rotten_cache_is_no_cache(tmp_path: Path, file: Path, rotten: str) -> None:
    kept = tmp_path / "cache" / "demitasse" / "digests.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(rotten)
    assert file_digest(file) == sha256(b"old bytes")
    assert len(remembered(tmp_path)) == 1, "it is written anew"


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, file: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert file_digest(file) == sha256(b"old bytes")


def test_only_the_newest_files_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "MOST", 3)
    for number in range(5):
        made = tmp_path / f"weights {number}"
        made.write_bytes(f"bytes {number}".encode())
        file_digest(made)
    kept = {seen["sha256"] for seen in remembered(tmp_path).values()}
    assert kept == {sha256(f"bytes {number}".encode()) for number in (2, 3, 4)}
