"""The image: what it is named after, what it refuses early, and that nothing half is left."""

import io
import multiprocessing
import shutil
import tarfile
from pathlib import Path

import pytest

from toolchain.board import image, rootfs
from toolchain.errors import BoardError, ToolError
from toolchain.progress import Silent
from toolchain.tools import openssh

REBUILD = "sudo apt-get update && sudo apt-get install --no-install-recommends "


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def programs(folder: Path, **scripts: str) -> str:
    """Make programs that are shell scripts; return a PATH with them before the system's."""
    folder.mkdir()
    for name, script in scripts.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin:/usr/sbin:/sbin"


def all_there(folder: Path, *, unshare: str = "exit 0") -> str:
    """A computer where all is installed, and where namespaces do what the script does."""
    there = dict.fromkeys(
        (
            "qemu_system_aarch64",
            "qemu_img",
            "fdtput",
            "mmdebstrap",
            "qemu_aarch64_static",
            "mke2fs",
            "newuidmap",
        ),
        "",
    )
    return programs(folder, unshare=unshare, **there)


def test_an_image_is_named_after_what_it_is_made_from(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twelve = image.place(12)
    assert twelve == image.place(12) and twelve.name.startswith("debian12-")
    assert image.place(13).name.startswith("debian13-")
    monkeypatch.setattr(rootfs, "PACKAGES", (*rootfs.PACKAGES, "cowsay"))
    assert image.place(12) != twelve


def test_an_image_belongs_to_the_keys_that_are_in_it(place: Path) -> None:
    before = image.place(12)
    shutil.rmtree(image.cache() / "keys")
    assert image.place(12) != before


def test_an_image_that_is_there_is_not_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    image.place(12).mkdir(parents=True)
    monkeypatch.setenv("PATH", "")
    assert image.obtain(12, Silent()).folder == image.place(12)


def test_all_that_is_missing_is_said_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.place(12)
    monkeypatch.setenv("PATH", str(place / "nothing"))
    monkeypatch.setattr("toolchain.tools.mmdebstrap._PATH", str(place / "nothing"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(ToolError) as caught:
        image.obtain(12, Silent())
    packages = (
        "qemu-system-arm qemu-utils device-tree-compiler mmdebstrap "
        "qemu-user-static e2fsprogs uidmap"
    )
    assert caught.value.hint == REBUILD + packages


def test_too_little_room_is_said_before_anything_is_built(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", all_there(place / "bin"))
    monkeypatch.setattr(image, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(
        BoardError,
        match=r"images: building the image takes 1,099,511,627,776 MB, [\d,]+ MB are free",
    ):
        image.obtain(12, Silent())
    assert not any(path.is_dir() for path in image.place(12).parent.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unshare", "message"),
    [
        (
            "echo 'I: running'; echo 'E: the mirror is gone'; exit 1",
            "the image was not built: E: the mirror is gone",
        ),
        ("exit 88", "arm64 programs cannot run on this computer while the image is built"),
        (
            "echo 'unshare: unshare failed: EPERM'; exit 1",
            "the image cannot be built as this user: unshare: unshare failed: EPERM",
        ),
    ],
)
def test_a_failed_build_is_explained_and_leaves_nothing_half(
    place: Path, monkeypatch: pytest.MonkeyPatch, unshare: str, message: str
) -> None:
    monkeypatch.setenv("PATH", all_there(place / "bin", unshare=unshare))
    with pytest.raises(ToolError) as caught:
        image.obtain(12, Silent())
    assert caught.value.message == message and caught.value.hint
    assert [path.name for path in image.place(12).parent.iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_what_a_killed_build_left_is_cleared_away_by_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", all_there(place / "bin", unshare="exit 1"))
    half = image.place(12).with_name(f"{image.place(12).name}.part")
    (half / "mmdebstrap.abc").mkdir(parents=True)
    with pytest.raises(ToolError):
        image.obtain(12, Silent())
    assert not half.exists()


def test_two_processes_do_not_build_the_same_image(place: Path) -> None:
    said: list[str] = []

    class Listener(Silent):
        def note(self, text: str) -> None:
            said.append(text)
            go_on.set()

    here, go_on = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=_hold, args=(place / "image", here, go_on))
    other.start()
    here.wait()
    with image.locked(place / "image", Listener(), "it is being built"):
        pass
    other.join()
    assert said == ["it is being built: waiting for it"]


def _hold(folder: Path, here, go_on) -> None:
    with image.locked(folder, Silent(), ""):
        here.set()
        go_on.wait()


def test_the_board_gets_its_host_key_and_lets_only_our_user_in(place: Path) -> None:
    openssh.make_key(place / "host", "host")
    openssh.make_key(place / "user", "user")
    with tarfile.open(fileobj=io.BytesIO(rootfs.overlay(place / "host", place / "user"))) as tar:
        entries = {entry.name: entry for entry in tar}
        authorized = tar.extractfile("etc/ssh/board_authorized_keys")
        assert authorized and authorized.read() == (place / "user.pub").read_bytes()
    assert entries["etc/ssh/ssh_host_ed25519_key"].mode == 0o600
    assert "var/lib/systemd/linger/pi" in entries
    assert {entry.uid for entry in entries.values()} == {0}
    assert not any("user" in name and not name.startswith("etc/systemd") for name in entries)
