"""Documents → blocks, one module for each format.

`read(file, notes)` of a module yields blocks and adds to `notes` what it left out. It raises
`Unread` or `Unreadable` for a file that gives nothing, with the sentence that says why.
"""

import stat
from pathlib import Path

from toolchain.errors import ToolError

MIB = 1 << 20
MAX_MIB = 64
"""Size of a text file that is read whole."""


class Unread(ValueError):  # noqa: N818 - what a file is, and not what went wrong with us
    """A file that gives no passages; its text is the sentence that says why."""


def content_of(file: Path, max_mib: int = MAX_MIB) -> bytes:
    """Return the bytes of a file; raise Unread for one that is empty or too large."""
    check_size(file, max_mib)
    return file.read_bytes()


def check_size(file: Path, max_mib: int) -> None:
    """Raise Unread for what is no plain file, for an empty file and for one that is too large."""
    status = file.stat()
    # A pipe or a device could be read for ever.
    if not stat.S_ISREG(status.st_mode):
        raise Unread("is not a plain file")
    if not status.st_size:
        raise Unread("is empty")
    if status.st_size > max_mib * MIB:
        raise Unread(
            f"has {status.st_size / MIB:,.0f} MiB, at most {max_mib} of this kind are read: "
            "cut it into several files"
        )


def not_installed(package: str) -> ToolError:
    """Return the error of a library that documents need."""
    return ToolError(f"{package} is not installed", hint="pip install 'demitasse[documents]'")
