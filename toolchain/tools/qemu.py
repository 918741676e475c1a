"""QEMU's programs and fdtput on this computer: their paths, their version and what they make.

The only module that calls `qemu-system-aarch64`, `qemu-img` and `fdtput`.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import ToolError
from toolchain.tools import apt

PACKAGES = {
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-img": "qemu-utils",
    "fdtput": "device-tree-compiler",
}
"""program → Debian package."""
OLDEST = (7, 1)
# Its `virt` machine is the first with a Cortex-A76.
"""Oldest version that is accepted."""


def verify() -> str:
    """Return QEMU's version, such as `7.2.22`.

    Raises ToolError with one line of apt for all that is missing.
    """
    if missing := missing_packages():
        names = [name for name, package in PACKAGES.items() if package in missing]
        raise ToolError(
            f"a virtual board needs {', '.join(f'`{name}`' for name in names)}",
            hint=apt.install_line(missing),
        )
    return version()


def missing_packages() -> list[str]:
    """Return the Debian packages that a virtual board needs and that are not installed."""
    return [package for name, package in PACKAGES.items() if not shutil.which(name)]


def version() -> str:
    """Return QEMU's version; raise ToolError if it is too old."""
    said = _run(["qemu-system-aarch64", "--version"])
    found = re.search(r"version (\d+)\.(\d+)(\.\d+)*", said)
    if not found or (int(found[1]), int(found[2])) < OLDEST:
        hint = f"QEMU {OLDEST[0]}.{OLDEST[1]} or newer is needed: Debian 12, Ubuntu 23.04"
        raise ToolError(
            f"qemu-system-aarch64: too old: {said.splitlines()[0] if said else 'no version'}",
            hint=hint,
        )

    return found[0].removeprefix("version ")


def to_qcow2(raw: Path, image: Path) -> None:
    """Convert a raw disk image."""
    _run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(image)], timeout_s=600)


def to_raw(image: Path, raw: Path) -> None:
    """Convert a disk image to a raw one, sparse where it is empty."""
    _run(["qemu-img", "convert", "-O", "raw", str(image), str(raw)], timeout_s=600)


def make_overlay(image: Path, backing: Path) -> None:
    """Make a disk image of the differences from another one, which must stay where it is."""
    _run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            str(backing.resolve()),
            "-F",
            "qcow2",
            str(image),
        ]
    )


def make_empty(image: Path, size_bytes: int) -> None:
    """Make an empty disk image."""
    _run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), str(size_bytes)])


def make_device_tree(file: Path, machine: Sequence[str], model: str) -> None:
    """Write QEMU's device tree for a machine (its options), with a real board's model string."""
    command = ["qemu-system-aarch64", *machine, "-nodefaults", "-display", "none"]
    option = command.index("-M") + 1
    command[option] += f",dumpdtb={file}"
    _run(command)
    _run(["fdtput", "-t", "s", str(file), "/", "model", model])


def start(arguments: Sequence[str], folder: Path) -> None:
    """Start a machine in its folder that outlives this process.

    QEMU answers only after a snapshot is loaded and every port is open. Raises ToolError with
    QEMU's message if it does not come up.
    """
    _run(["qemu-system-aarch64", *arguments, "-daemonize"], timeout_s=120, folder=folder)


def _run(command: Sequence[str], *, timeout_s: float = 30, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
    except FileNotFoundError as error:
        raise ToolError(
            f"`{command[0]}` is not installed", hint=apt.install_line([PACKAGES[command[0]]])
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{command[0]}: no end after {timeout_s:g} s") from error

    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ToolError(f"{command[0]}: {said[-1].removeprefix(f'{command[0]}: ')}")
    return done.stdout
