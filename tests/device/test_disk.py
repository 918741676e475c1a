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
    monkeypatch.setattr(disk, "_file_system_of", lambda folder: "ext4")
    disk.sync_everything(tmp_path)
    assert asked == (["all"] if reports else ["folder", "file", tmp_path.name])


MOUNTS = """\
22 1 179:2 / / rw,noatime - ext4 /dev/root rw
30 22 8:1 / /media/my\\040disk rw - fuseblk /dev/sda1 rw
31 22 0:31 / /media/my\\040disk/fast rw - f2fs /dev/sdb1 rw
32 22 0:40 / /srv rw shared:3 - ext4 /dev/sdc1 rw
33 32 0:41 / /srv rw shared:3 master:2 - overlay overlay rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/pi/store", "ext4"),
        ("/media/my disk/store", "fuseblk"),
        ("/media/my disk", "fuseblk"),
        ("/media/my disk/fast/store", "f2fs"),
        ("/media/my disk/faster", "fuseblk"),
        ("/srv/store", "overlay"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(
    monkeypatch: pytest.MonkeyPatch, folder: str, kind: str
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: MOUNTS)
    assert disk._file_system_of(Path(folder)) == kind


@pytest.mark.parametrize("kind", ["fuseblk", "fuse.sshfs", "overlay", "nfs4", "vfat", ""])
def test_where_one_call_reaches_no_disk_each_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "file").write_text("x")
    asked: list[str] = []
    monkeypatch.setattr(disk, "_file_system_of", lambda folder: kind)
    monkeypatch.setattr(disk, "sync", lambda path: asked.append(path.name))
    disk.sync_everything(tmp_path)
    assert asked == ["file", tmp_path.name]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, None], ids=str)
def test_where_the_kernel_or_the_library_has_no_such_call_each_file_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    class Without:
        @staticmethod
        def syncfs(descriptor: int) -> int:
            if number is None:
                raise AttributeError("undefined symbol: syncfs")
            ctypes.set_errno(number)
            return -1

    (tmp_path / "file").write_text("x")
    asked: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Without)
    monkeypatch.setattr(disk, "sync", lambda path: asked.append(path.name))
    disk.sync_everything(tmp_path)
    assert asked == ["file", tmp_path.name]


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
