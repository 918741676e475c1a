"""What goes wrong on real boards, on demand on a virtual one that is up: for tests, and for those who want to see it.

A power cut is `virtual.power_cut`; memory runs out by itself, it is as small as the real board's.
"""

import contextlib
from collections.abc import Iterator

from toolchain.board import boot, qmp
from toolchain.board.virtual import VirtualBoard
from toolchain.tools import qemu

NEVER_SET = 30 * 86400.0
"""The clock of a board without a battery, in seconds since 1970; Linux takes no time that is less than its uptime."""
SMALL_DISK = "/mnt"
_PLUG_S = 30.0
_LINK = "$(ls /sys/class/net | grep -v lo)"
_SLOW = f"modprobe sch_netem && tc qdisc replace dev {_LINK} root netem delay {{delay_ms}}ms rate {{rate_kbit}}kbit"
_FAST = f"tc qdisc del dev {_LINK} root"
_MOUNT = (
    "for try in $(seq 200); do [ -b /dev/vdb ] && break; sleep 0.1; done; "
    "mkfs.ext4 -q /dev/vdb && mount /dev/vdb {place} && chown pi: {place}"
)  # fmt: skip


@contextlib.contextmanager
def pulled_cable(board: VirtualBoard) -> Iterator[None]:
    """Nothing reaches the board or leaves it within this block."""
    _set_link(board, up=False)
    try:
        yield
    finally:
        _set_link(board, up=True)


@contextlib.contextmanager
def slow_link(board: VirtualBoard, *, delay_ms: int, rate_kbit: int) -> Iterator[None]:
    """What the board sends is late and slow within this block; what it receives is not."""
    _shell(board, _SLOW.format(delay_ms=delay_ms, rate_kbit=rate_kbit))
    try:
        yield
    finally:
        _shell(board, _FAST)


@contextlib.contextmanager
def small_disk(board: VirtualBoard, *, size_mb: int) -> Iterator[str]:
    """Yield a folder of user `pi` on an ext4 disk of that size, soon full; the disk goes with the block."""
    file = board.folder / "small.qcow2"
    qemu.make_empty(file, size_mb << 20)
    with qmp.monitor(board.address, board.folder) as wire:
        wire.call("blockdev-add", {"node-name": "small", "driver": "qcow2", "file": {"driver": "file", "filename": str(file)}})
        wire.call("device_add", {"driver": "virtio-blk-pci", "drive": "small", "bus": "slot1", "id": "plugged", "romfile": ""})
    try:
        _shell(board, _MOUNT.format(place=SMALL_DISK))
        yield SMALL_DISK
    finally:
        _unplug(board)
        file.unlink()


def set_clock(board: VirtualBoard, seconds: float) -> None:
    """Set the board's clock, in seconds since 1970."""
    with qmp.agent(board.address, board.folder) as wire:
        boot.set_clock(wire, board.address, seconds)


def _set_link(board: VirtualBoard, *, up: bool) -> None:
    with qmp.monitor(board.address, board.folder) as wire:
        wire.call("set_link", {"name": "link", "up": up})


def _unplug(board: VirtualBoard) -> None:
    _shell(board, f"umount -l {SMALL_DISK} || true")
    with qmp.monitor(board.address, board.folder) as wire:
        wire.call("device_del", {"id": "plugged"})
        while wire.read().get("event") != "DEVICE_DELETED":
            pass
        wire.call("blockdev-del", {"node-name": "small"})


def _shell(board: VirtualBoard, line: str) -> None:
    qmp.run(board.address, board.folder, ["/bin/sh", "-c", line], timeout_s=_PLUG_S * 2)
