"""The promises of device/disk.py: a change is whole, and it is on the disk if the function
says so.
"""

import ctypes
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from device import disk


def test_a_sync_asks_the_kernel_for_an_fsync_of_that_very_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: asked.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())),
    )
    disk.write_whole(tmp_path / "file", b"content")
    assert asked == [str(tmp_path / ".file.part"), str(tmp_path)]


def test_one_call_puts_a_whole_file_system_on_the_disk_and_an_error_of_it_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.sync_everything(tmp_path)

    class Broken:
        @staticmethod
        def syncfs(descriptor: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Broken)
    with pytest.raises(OSError, match="Input/output error"):
        disk.sync_everything(tmp_path)


@pytest.mark.parametrize(
    ("release", "reports"),
    [("6.12.34+rpt-rpi-v8", True), ("5.8", True), ("5.4.0-42", False), ("4.9.337-tegra", False)],
)
def test_where_one_call_hides_write_errors_each_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, reports: bool
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    asked: list[str] = []
    monkeypatch.setattr(disk.os, "uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr(disk, "sync", lambda path: asked.append(path.name))
    monkeypatch.setattr(disk, "sync_all", lambda descriptor: asked.append("all"))
    disk.sync_everything(tmp_path)
    assert asked == (["all"] if reports else ["folder", "file", tmp_path.name])


def test_a_folder_and_all_that_is_in_it_is_removed_and_nothing_that_a_link_points_to(
    tmp_path: Path,
) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "folder" / "nowhere").symlink_to(tmp_path / "missing")
    disk.remove(tmp_path / "folder")
    disk.remove(tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
