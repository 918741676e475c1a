"""Errors of the board side: a code for programs, a sentence for people, and a hint."""

import errno
from typing import Any


class DeviceError(Exception):
    """Something that went wrong on the board; printed as JSON, or answered over HTTP."""

    def __init__(self, code: str, message: str, hint: str = "", status: int = 500) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.status = status
        """HTTP status of the answer."""

    def as_json(self) -> dict[str, Any]:
        """Return the body that `python -m device` prints and the host reads."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}


def read_only(place: object) -> DeviceError:
    """Return the error of a disk that became read-only."""
    return DeviceError(
        "read_only",
        f"the disk under {place} is read-only",
        "remount it, or look at dmesg: the card may be dying",
    )


def of_the_disk(error: OSError) -> DeviceError:
    """Return the error that a failed system call means for the owner of the board."""
    where = error.filename or "the store"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DeviceError("disk_full", f"the disk is full: {where}", "make room, then do it again")
    if error.errno == errno.EROFS:
        return read_only(where)

    return DeviceError(
        "disk", f"{where}: {error.strerror or error}", "look at dmesg: the card may be dying"
    )
