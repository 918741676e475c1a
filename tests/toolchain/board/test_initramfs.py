"""The initramfs: which modules in which order, and an archive that cpio itself can read."""

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from toolchain.board import initramfs
from toolchain.errors import ToolError

D = "kernel/drivers"
DEPENDENCIES = f"""\
{D}/virtio/virtio_ring.ko.xz:
{D}/virtio/virtio.ko.xz: {D}/virtio/virtio_ring.ko.xz
{D}/virtio/virtio_pci.ko.xz: {D}/virtio/virtio.ko.xz {D}/virtio/virtio_ring.ko.xz
{D}/block/virtio_blk.ko.xz: {D}/virtio/virtio.ko.xz {D}/virtio/virtio_ring.ko.xz
{D}/other.ko.xz:
"""


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "6.12-cloud-arm64"
    for line in DEPENDENCIES.splitlines():
        file = folder / line.partition(":")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(lzma.compress(file.name.encode()))
    (folder / "modules.dep").write_text(DEPENDENCIES)
    (folder / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    return folder


def test_each_module_comes_after_those_it_needs_and_no_other_comes(modules: Path) -> None:
    order = [Path(path).name for path in initramfs.load_order(modules)]
    assert order == ["virtio_ring.ko.xz", "virtio.ko.xz", "virtio_pci.ko.xz", "virtio_blk.ko.xz"]


def test_a_kernel_that_cannot_reach_the_disk_is_refused(modules: Path) -> None:
    (modules / "modules.builtin").write_text("")
    with pytest.raises(ToolError) as caught:
        initramfs.load_order(modules)
    assert caught.value.message == "the kernel 6.12-cloud-arm64 has no module `ext4`"


def test_modules_are_unpacked_and_named_in_their_order(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"\x7fELF")
    content = gzip.decompress(initramfs.build(tmp_path / "busybox", modules))
    assert b"modules/00-virtio_ring.ko\0" in content and b"virtio_ring.ko.xz" in content
    assert initramfs.build(tmp_path / "busybox", modules) == initramfs.build(
        tmp_path / "busybox", modules
    )


@pytest.mark.skipif(not shutil.which("cpio"), reason="cpio is not installed")
def test_cpio_reads_the_archive(tmp_path: Path) -> None:
    entries = {
        "bin": (0o040755, b""),
        "bin/tool": (0o100755, b"five."),
        "bin/sh": (0o120777, b"tool"),
    }
    subprocess.run(
        ["cpio", "-i", "--quiet"], input=initramfs.archive(entries), cwd=tmp_path, check=True
    )
    assert (tmp_path / "bin/sh").read_bytes() == b"five." and (tmp_path / "bin/sh").is_symlink()


def test_the_archive_ends_as_the_format_says(tmp_path: Path) -> None:
    archive = initramfs.archive({"a": (0o100644, b"12345")})
    assert archive[:6] == b"070701" and len(archive) % 4 == 0
    assert archive.rstrip(b"\0").endswith(b"TRAILER!!!")
    assert archive[110:].startswith(b"a\0")
    assert int(archive[54:62], 16) == 5
