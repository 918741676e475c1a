"""The first file system of a virtual board's kernel: a cpio archive with busybox and disk modules.

It is made here byte by byte, without root. Format: Linux,
Documentation/driver-api/early-userspace/buffer-format.rst, "newc".
"""

import gzip
import lzma
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from toolchain.errors import ToolError

NO_ROOT = "BOARD-NO-ROOT"
"""Text that the board prints on its serial port when it has no disk."""
_WANTED = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
_MAY_BE_ABSENT = ("crc32c_generic",)
"""Modules that newer kernels do not have: Linux 6.16 dropped this one."""
INIT = f"""#!/bin/sh
export PATH=/bin
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in /modules/*.ko; do $B insmod $module; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 500 ]; do $B usleep 20000; tries=$((tries + 1)); done
$B mount -t ext4 -o rw,noatime /dev/vda /root || {{ echo {NO_ROOT}; $B poweroff -f; }}
$B mount --move /dev /root/dev
$B umount /sys
$B umount /proc
exec $B switch_root /root /sbin/init
"""
_FOLDERS = ("bin", "modules", "proc", "sys", "dev", "root")
_FOLDER, _FILE, _LINK = 0o040755, 0o100755, 0o120777


def build(busybox: Path, modules: Path) -> bytes:
    """Return a gzipped initramfs from an arm64 busybox and a modules folder (after depmod)."""
    entries: dict[str, tuple[int, bytes]] = dict.fromkeys(_FOLDERS, (_FOLDER, b""))
    entries |= {
        "init": (_FILE, INIT.encode()),
        "bin/busybox": (_FILE, busybox.read_bytes()),
        "bin/sh": (_LINK, b"busybox"),
    }
    for number, module in enumerate(load_order(modules)):
        name = f"modules/{number:02}-{Path(module).name.removesuffix('.xz')}"
        entries[name] = (_FILE, _module(modules / module))

    return gzip.compress(archive(entries), compresslevel=6, mtime=0)


def load_order(modules: Path) -> list[str]:
    """Return the modules that reach the disk, dependencies first, as paths of `modules.dep`."""
    needs = dict(_dependencies((modules / "modules.dep").read_text(encoding="utf-8")))
    built_in = {
        _name(line)
        for line in (modules / "modules.builtin").read_text(encoding="utf-8").splitlines()
    }
    by_name = {_name(path): path for path in needs}
    order: list[str] = []

    for wanted in _WANTED:
        if wanted in by_name:
            _append(by_name[wanted], needs, order)
        elif wanted not in built_in and wanted not in _MAY_BE_ABSENT:
            raise ToolError(f"the kernel {modules.name} has no module `{wanted}`")

    return order


def archive(entries: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return a cpio archive (`newc`) of (mode, content) by name."""
    parts = [
        _entry(number, name, mode, content)
        for number, (name, (mode, content)) in enumerate(entries.items(), 1)
    ]
    return b"".join([*parts, _entry(0, "TRAILER!!!", 0, b"")])


def _entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _dependencies(text: str) -> Iterator[tuple[str, list[str]]]:
    for line in text.splitlines():
        path, _, rest = line.partition(":")
        yield path, rest.split()


def _append(path: str, needs: Mapping[str, Iterable[str]], order: list[str]) -> None:
    for needed in needs[path]:
        if needed not in order:
            _append(needed, needs, order)
    if path not in order:
        order.append(path)


def _name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def _module(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content
