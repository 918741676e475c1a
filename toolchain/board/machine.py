"""The QEMU machine that simulates a target: processor, cores, memory, name, command line."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from toolchain.board.qmp import AGENT, MONITOR
from toolchain.errors import ConfigError
from toolchain.target import Target
from toolchain.tools import qemu

DEVICES_VERSION = 1
"""Version of `arguments`: a snapshot loads only into the devices that it was taken with."""
SERIAL_LOG = "serial.log"
_PROCESSORS = {
    "Cortex-A53": "cortex-a53",
    "Cortex-A57": "cortex-a57",
    "Cortex-A72": "cortex-a72",
    "Cortex-A76": "cortex-a76",
    "Cortex-A78AE": "cortex-a76",
}
# The A76 has the A78AE's instructions as far as our profiles go.
"""Core of a target → processor of QEMU 7.1."""
_REVISION = " Rev 1.4"
_KERNEL_OPTIONS = "console=ttyAMA0 quiet systemd.show_status=0 panic=-1 audit=0"
_JIT_CACHE_MB = 128
# Without a limit this cache alone can take a gigabyte.
"""Size of QEMU's cache of translated code."""
_KERNEL_SHARE, _KERNEL_MB = 0.0186, 24
# Measured: 43 of 1024 MB and 62 of 2048 MB.
"""Memory that the guest's kernel keeps for itself: share of all, and a fixed part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A simulated machine, in QEMU's terms."""

    processor: str
    cores: int
    memory_mb: int
    """RAM of the machine, such that its Linux shows as much as the real board's."""
    model: str
    """Device-tree model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """Files and settings of one start."""

    kernel: Path
    initramfs: Path
    device_tree: Path
    port: int
    """Loopback port of its SSH server; 0: any free one."""
    snapshot: str = ""
    """State to resume; empty: a cold boot."""


def simulating(target: Target) -> Machine:
    """Return the machine that simulates a target; raise ConfigError if none does."""
    known = [cluster for cluster in target.clusters if cluster.core in _PROCESSORS]
    visible_mb = target.memory_mb
    if not known or visible_mb is None or not target.model_strings:
        raise ConfigError(
            f"{target.id}: no virtual board stands in for it",
            hint="take one of the Raspberry Pis: demitasse targets",
        )

    fastest = max(known, key=lambda cluster: cluster.max_mhz or 0)
    return Machine(
        processor=_PROCESSORS[fastest.core],
        cores=sum(cluster.count for cluster in target.clusters),
        memory_mb=round((visible_mb + _KERNEL_MB) / (1 - _KERNEL_SHARE)),
        model=target.model_strings[0] + (_REVISION if target.family == "raspberry-pi" else ""),
    )


def make_device_tree(machine: Machine, file: Path) -> None:
    """Write the machine's device tree, with the model name of the real board."""
    qemu.make_device_tree(file, _hardware(machine), machine.model)


def arguments(name: str, machine: Machine, boot: Boot, disk: str) -> list[str]:
    """Return QEMU's arguments; sockets, log and disk are files of its working folder.

    The guest reaches no network; only the loopback port leads to it.
    """
    # Flushes of the disk end in the host's memory: it outlives QEMU, which is all that dies here.
    # virtio-blk and not nvme: QEMU takes no snapshot of an nvme disk.
    # Two free PCI ports are there for disks that are plugged in later.
    return [
        *_hardware(machine),
        "-name",
        name,
        "-accel",
        f"tcg,thread=multi,tb-size={_JIT_CACHE_MB}",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-monitor",
        "none",
        "-kernel",
        str(boot.kernel),
        "-initrd",
        str(boot.initramfs),
        "-dtb",
        str(boot.device_tree),
        "-append",
        _KERNEL_OPTIONS,
        "-device",
        "pcie-root-port,id=slot1,chassis=1,slot=1",
        "-device",
        "pcie-root-port,id=slot2,chassis=2,slot=2",
        "-drive",
        f"if=none,id=disk,file={disk},format=qcow2,cache=unsafe,discard=unmap",
        "-device",
        "virtio-blk-pci,drive=disk,romfile=",
        "-netdev",
        f"user,id=link,restrict=on,hostfwd=tcp:127.0.0.1:{boot.port}-:22",
        "-device",
        "virtio-net-pci,netdev=link,romfile=",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        f"socket,id=agent,path={AGENT},server=on,wait=off",
        "-device",
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        "-serial",
        f"file:{SERIAL_LOG}",
        "-qmp",
        f"unix:{MONITOR},server=on,wait=off",
        *(["-loadvm", boot.snapshot] if boot.snapshot else []),
    ]


def state_id(machine: Machine, image_id: str, qemu_version: str) -> str:
    """Return the id of all that must be equal where a kept state is loaded."""
    parts = [*dataclasses.astuple(machine), image_id, qemu_version, DEVICES_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _hardware(machine: Machine) -> list[str]:
    """Return the machine type. The interrupt controller's version 2 has room for eight cores."""
    return [
        "-M",
        "virt,gic-version=3",
        "-cpu",
        machine.processor,
        "-smp",
        str(machine.cores),
        "-m",
        str(machine.memory_mb),
    ]
