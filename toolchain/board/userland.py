"""A board's Python without a board: arm64 programs of its image under QEMU's user mode.

It starts in seconds, without a boot. It has the processor's instructions and the image's libraries,
and nothing else of a board: no kernel and no memory of its own.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain.board import image, rootfs
from toolchain.errors import ToolError
from toolchain.progress import Reporter
from toolchain.tools import apt, e2fs, mmdebstrap, qemu

PROCESSORS = ("cortex-a53", "cortex-a72", "cortex-a76")
_PROGRAM = "qemu-aarch64-static"
_LIBRARIES = "/usr/lib/aarch64-linux-gnu"


def command(
    processor: str, words: Sequence[str], report: Reporter, *, debian: int = rootfs.DEFAULT_DEBIAN
) -> list[str]:
    """Return the command that runs a board's `python3` with these arguments.

    `processor` is QEMU's name of it.

    The files are taken out of the board's image once. Raises ToolError without QEMU's user mode.
    """
    if not shutil.which(_PROGRAM):
        raise ToolError(
            f"`{_PROGRAM}` is not installed", hint=apt.install_line([mmdebstrap.PACKAGES[_PROGRAM]])
        )

    root = obtain(debian, report)
    return [
        _PROGRAM,
        "-cpu",
        processor,
        "-L",
        str(root),
        str(root / "usr" / "bin" / "python3"),
        *words,
    ]


def obtain(debian: int, report: Reporter) -> Path:
    """Return a folder with the Python of a board's image, its modules and their libraries."""
    used = image.obtain(debian, report)
    folder = image.cache() / "userland" / used.id
    with image.locked(folder, report, "it is being unpacked by another process"):
        if not folder.is_dir():
            report.note("taking Python out of the virtual board's image, once")
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as work:
                _unpack(used, Path(work))
                (Path(work) / "root").rename(folder)

    return folder


def _unpack(used: image.Image, work: Path) -> None:
    disk, root = work / "disk", work / "root"
    qemu.to_raw(used.disk, disk)
    listed = e2fs.listing(disk, "/usr/bin")
    python = next(name for name in listed if name.startswith("python3.") and name[8:].isdigit())
    e2fs.extract(disk, [f"/usr/bin/{python}"], root / "usr" / "bin")
    e2fs.extract(
        disk,
        [_LIBRARIES, f"/usr/lib/{python}", "/usr/lib/ld-linux-aarch64.so.1"],
        root / "usr" / "lib",
    )
    (root / "usr" / "bin" / "python3").symlink_to(python)
    (root / "lib").symlink_to("usr/lib")


def run(
    argv: Sequence[str], *, stdin: str = "", timeout_s: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run what `command` returned; the return code is -n after a death by signal n."""
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
