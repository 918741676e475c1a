"""Faults of real boards, caused on demand on a virtual board that is up: for tests and for demos.

A power cut is `virtual.power_cut`. Every power cut there could have been is a `recorded_disk`.
Memory runs out by itself: it is as small as the real board's.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolchain.board import boot, qmp
from toolchain.board.recording import Recording
from toolchain.board.virtual import VirtualBoard
from toolchain.tools import e2fs, qemu

NEVER_SET = 30 * 86400.0
"""Clock of a board without a battery, in seconds since 1970."""
# Linux takes no time that is less than its uptime.
PLUGGED_DISK, _NODE = "/mnt", "extra"
_PLUG_S = 30.0
_LINK = "$(ls /sys/class/net | grep -v lo)"
_SLOW = (
    f"modprobe sch_netem && tc qdisc replace dev {_LINK} root netem "
    "delay {delay_ms}ms rate {rate_kbit}kbit"
)
_FAST = f"tc qdisc del dev {_LINK} root"
_APPEARS = "for try in $(seq 200); do [ -b /dev/vdb ] && break; sleep 0.1; done"
_FORMAT, _MOUNT = "mkfs.ext4 -q /dev/vdb", "mount /dev/vdb {place} && chown pi: {place}"


@contextlib.contextmanager
def pulled_cable(board: VirtualBoard) -> Iterator[None]:
    """Cut the board off from the network within this block, in both directions."""
    _set_link(board, up=False)
    try:
        yield
    finally:
        _set_link(board, up=True)


@contextlib.contextmanager
def slow_link(board: VirtualBoard, *, delay_ms: int, rate_kbit: int) -> Iterator[None]:
    """Make what the board sends late and slow within this block; what it receives is not."""
    _shell(board, _SLOW.format(delay_ms=delay_ms, rate_kbit=rate_kbit))
    try:
        yield
    finally:
        _shell(board, _FAST)


@contextlib.contextmanager
def small_disk(board: VirtualBoard, *, size_mb: int) -> Iterator[str]:
    """Yield a folder of user `pi` on a small ext4 disk, which is removed with the block."""
    file = board.folder / "small.qcow2"
    qemu.make_empty(file, size_mb << 20)
    try:
        with _plugged(
            board, {"driver": "qcow2", "file": _file(file)}, f"{_APPEARS}; {_FORMAT} && {_MOUNT}"
        ):
            yield PLUGGED_DISK
    finally:
        file.unlink()


@contextlib.contextmanager
def recorded_disk(board: VirtualBoard, folder: Path, *, size_mb: int) -> Iterator[Recording]:
    """Plug in an ext4 disk for user `pi` and record each of its writes in files of `folder`.

    It is mounted at PLUGGED_DISK. `Recording.disk_after` makes the disk as it is after a power cut
    at any write; the recording outlives the block.
    """
    disk = folder / "disk.ext4"
    recording = Recording(base=folder / "base.ext4", log=folder / "writes.log")
    e2fs.make(disk, size_mb << 20)
    shutil.copyfile(disk, recording.base)
    recording.log.touch()
    node = {"driver": "blklogwrites", "file": _file(disk), "log": _file(recording.log)}
    with _plugged(board, node, f"{_APPEARS}; {_MOUNT}"):
        yield recording


def set_clock(board: VirtualBoard, seconds: float) -> None:
    """Set the board's clock, in seconds since 1970."""
    with qmp.agent(board.address, board.folder) as wire:
        boot.set_clock(wire, board.address, seconds)


def _set_link(board: VirtualBoard, *, up: bool) -> None:
    with qmp.monitor(board.address, board.folder) as wire:
        wire.call("set_link", {"name": "link", "up": up})


@contextlib.contextmanager
def _plugged(board: VirtualBoard, node: dict[str, Any], mount: str) -> Iterator[None]:
    """Plug a disk into the running board and mount it; at the end pull it out, in use or not."""
    with qmp.monitor(board.address, board.folder) as wire:
        wire.call("blockdev-add", {"node-name": _NODE, **node})
        wire.call(
            "device_add",
            {
                "driver": "virtio-blk-pci",
                "drive": _NODE,
                "bus": "slot1",
                "id": "plugged",
                "romfile": "",
            },
        )

    try:
        _shell(board, mount.format(place=PLUGGED_DISK))
        yield
    finally:
        _shell(board, f"umount -l {PLUGGED_DISK} || true")
        with qmp.monitor(board.address, board.folder) as wire:
            wire.call("device_del", {"id": "plugged"})
            while wire.read().get("event") != "DEVICE_DELETED":
                pass
            wire.call("blockdev-del", {"node-name": _NODE})


def _file(path: Path) -> dict[str, str]:
    return {"driver": "file", "filename": str(path)}


def _shell(board: VirtualBoard, line: str) -> None:
    qmp.run(board.address, board.folder, ["/bin/sh", "-c", line], timeout_s=_PLUG_S * 2)
