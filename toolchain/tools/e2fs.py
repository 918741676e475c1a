"""ext4 images on this computer, without being root and without mounting them: made, repaired after a power cut, and read.

The only module that calls `mke2fs`, `e2fsck` and `debugfs` (mmdebstrap's hook, a shell script, calls the first one too).
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
"""Exit codes of e2fsck for a file system that is in order, at first or now."""


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
    """Replay the journal as a mount does, and check; raise ArtifactError if the file system cannot be mended."""
    done = _run(["e2fsck", "-f", "-y", str(image)], codes=(*_MENDED, 4, 8))
    if done.returncode not in _MENDED:
        raise ArtifactError(
            f"{image.name}: the file system is beyond repair: {done.stdout.strip().splitlines()[-1]}"
        )


def extract(image: Path, paths: Sequence[str], folder: Path) -> None:
    """Copy files and folders of an image, links and all; what is not there is left out."""
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
