"""ext4 images on this computer, without root and without a mount: make, repair, read.

The only module that calls `mke2fs`, `e2fsck` and `debugfs`. (mmdebstrap's hook, a shell script,
calls `mke2fs` too.)
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from toolchain.errors import ArtifactError, ToolError
from toolchain.tools import apt

_PATH = os.defpath + ":/usr/sbin:/sbin"
_MENDED = (0, 1, 2)
"""Exit codes of e2fsck for a file system that is sound, as found or after a repair."""


def make(image: Path, size_bytes: int) -> None:
    """Make an empty ext4 file system in a file."""
    with image.open("wb") as stream:
        stream.truncate(size_bytes)

    _run(
        [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "lazy_itable_init=0,root_owner=1000:1000",
            str(image),
        ]
    )


def mend(image: Path) -> None:
    """Replay the journal as a mount does, and check the file system.

    Raises ArtifactError if it cannot be repaired.
    """
    done = _run(["e2fsck", "-f", "-y", str(image)], codes=(*_MENDED, 4, 8))
    if done.returncode not in _MENDED:
        raise ArtifactError(
            f"{image.name}: the file system is beyond repair: "
            f"{done.stdout.strip().splitlines()[-1]}"
        )


def extract(image: Path, paths: Sequence[str], folder: Path) -> None:
    """Copy files and folders out of an image, links included; missing ones are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        _run(["debugfs", "-R", f'rdump "{path}" "{folder}"', str(image)])


def listing(image: Path, folder: str) -> list[str]:
    """Return the names in a folder of an image."""
    rows = _run(["debugfs", "-R", f'ls -p "{folder}"', str(image)]).stdout.splitlines()
    return [row.split("/")[5] for row in rows if row.count("/") >= 6]


def _run(command: Sequence[str], codes: Sequence[int] = (0,)) -> "subprocess.CompletedProcess[str]":
    program = shutil.which(command[0]) or shutil.which(command[0], path=_PATH)
    if not program:
        raise ToolError(f"`{command[0]}` is not installed", hint=apt.install_line(["e2fsprogs"]))

    done = subprocess.run(
        [program, *command[1:]],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    if done.returncode not in codes:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise ToolError(f"{command[0]}: {said[-1]}")
    return done
