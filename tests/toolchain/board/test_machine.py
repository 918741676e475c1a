"""Which machine stands in for which target, and the command line that starts it."""

from pathlib import Path

import pytest

from toolchain.board import machine
from toolchain.errors import ConfigError
from toolchain.target import all_targets, find

BOOT = machine.Boot(
    kernel=Path("vmlinuz"), initramfs=Path("initramfs"), device_tree=Path("board.dtb"), port=2222
)


@pytest.mark.parametrize(
    ("target_id", "processor", "cores", "memory_mb", "model"),
    [
        ("rpi-4b-2gb", "cortex-a72", 4, 1932, "Raspberry Pi 4 Model B Rev 1.4"),
        ("rpi-zero-2w", "cortex-a53", 4, 448, "Raspberry Pi Zero 2 W Rev 1.4"),
        ("rpi-5-8gb", "cortex-a76", 4, None, "Raspberry Pi 5 Model B Rev 1.4"),
        ("jetson-orin-nano", "cortex-a76", 6, None, "NVIDIA Orin Nano Developer Kit"),
        ("orange-pi-5", "cortex-a76", 8, None, "Orange Pi 5"),
        ("jetson-nano", "cortex-a57", 4, None, "NVIDIA Jetson Nano Developer Kit"),
    ],
)
def test_a_target_has_a_machine_of_its_size(
    target_id: str, processor: str, cores: int, memory_mb: int | None, model: str
) -> None:
    made = machine.simulating(find(target_id))
    assert (made.processor, made.cores, made.model) == (processor, cores, model)
    assert memory_mb is None or made.memory_mb == pytest.approx(memory_mb, abs=16)


@pytest.mark.parametrize(
    "target_id", [target.id for target in all_targets() if target.machine == "aarch64"]
)
def test_every_arm64_target_has_a_machine_that_shows_its_memory(target_id: str) -> None:
    made, shown = machine.simulating(find(target_id)), find(target_id).memory_mb
    assert shown and made.memory_mb * 0.9 < shown < made.memory_mb


def test_a_pc_has_none() -> None:
    with pytest.raises(ConfigError) as caught:
        machine.simulating(find("x86-64"))
    assert caught.value.message == "x86-64: no virtual board stands in for it"


def test_the_machine_reaches_nothing_and_one_loopback_port_leads_to_it() -> None:
    argv = machine.arguments(
        "virtual:rpi-4b-2gb", machine.simulating(find("rpi-4b-2gb")), BOOT, "disk.qcow2"
    )
    assert (
        argv[argv.index("-netdev") + 1] == "user,id=link,restrict=on,hostfwd=tcp:127.0.0.1:2222-:22"
    )
    assert argv[argv.index("-cpu") + 1] == "cortex-a72"
    assert "-loadvm" not in argv


def test_a_state_is_loaded_only_where_one_is_named() -> None:
    boot = machine.Boot(
        kernel=Path("k"), initramfs=Path("i"), device_tree=Path("d"), port=0, snapshot="ready"
    )
    assert machine.arguments("x", machine.simulating(find("rpi-4b-2gb")), boot, "disk")[-2:] == [
        "-loadvm",
        "ready",
    ]


def test_a_state_belongs_to_one_machine_one_image_and_one_qemu() -> None:
    pi, zero = machine.simulating(find("rpi-4b-2gb")), machine.simulating(find("rpi-zero-2w"))
    kept_of = [
        (pi, "image", "7.2.22"),
        (zero, "image", "7.2.22"),
        (pi, "other", "7.2.22"),
        (pi, "image", "10.0.2"),
    ]
    assert len({machine.state_id(*parts) for parts in kept_of}) == len(kept_of)
