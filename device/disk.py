"""Every change that the store makes to the board's disk: one function for one system call.

The rule: whatever must survive a power cut is changed here and nowhere else, and called as
`disk.<name>`. So tests can count the changes, end the program at each of them, let each fail, and
undo what no fsync had covered (tests/fakes/disks.py).
"""

import errno
import hashlib
import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Union

from device.manifest.reading import open_regular, parse_json, read_bounded

AT_ONCE = ("ext3", "ext4", "f2fs", "xfs", "btrfs", "tmpfs")
"""File systems that one syncfs(2) puts on the disk, with an error if that failed."""
# A program's (FUSE: NTFS, SSH) is asked for nothing by it, and overlayfs hid errors until 5.12.
Content = Union[bytes, bytearray, memoryview]
MAX_JSON_BYTES = 1 << 20
"""Maximum size of a JSON file of the store; manifests have a limit of their own."""
SEAL = "seal"
"""Field of a JSON file with the sha256 of all other fields."""
# A card that flips a bit of a number leaves valid JSON with another meaning.
_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700
"""Mode of files that only the store's user may open."""
# Whoever can open a file can lock it and so block every verb (flock needs no right to write).
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFELY
_MORE = os.O_RDWR | os.O_CREAT | os.O_APPEND | _SAFELY


def create(path: Path) -> int:
    """Open a file to be written anew; return its descriptor."""
    return _opened(path, _NEW)


def reopen(path: Path) -> int:
    """Open a file for reading and appending, create it if it is missing; return its descriptor."""
    return _opened(path, _MORE)


def write(descriptor: int, content: Content) -> int:
    """Write some of the bytes; return how many."""
    return os.write(descriptor, content)


def truncate(descriptor: int, size: int) -> None:
    """Cut an open file to its first bytes."""
    os.ftruncate(descriptor, size)


def fsync(descriptor: int) -> None:
    """Put an open file's bytes, or an open folder's names, on the disk."""
    os.fsync(descriptor)


def sync_all(descriptor: int) -> None:
    """Put all that was changed on an open folder's file system on the disk (syncfs(2))."""
    import ctypes  # a board's every verb reads this module, and few settle anything

    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def replace(source: Path, target: Path) -> None:
    """Rename a file or a folder in one step; a file of the new name is replaced."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Add a hard link to a file."""
    os.link(source, target)


def symlink(target: str, path: Path) -> None:
    """Make a symbolic link."""
    os.symlink(target, path)


def unlink(path: Path) -> None:
    """Delete a file's name."""
    os.unlink(path)


def mkdir(path: Path) -> None:
    """Make an empty folder that only its user may enter, whatever the umask."""
    os.mkdir(path, _PRIVATE_FOLDER)
    os.chmod(path, _PRIVATE_FOLDER)


def rmdir(path: Path) -> None:
    """Delete an empty folder."""
    os.rmdir(path)


def open_lock(path: Path) -> int:
    """Open a file for locking, also on a disk that became read-only.

    flock needs no right to write.
    """
    return _opened(path, os.O_RDONLY | os.O_CREAT | _SAFELY)


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending.

    If it cannot be opened, what is written to it is lost and nothing blocks.
    """
    try:
        return os.fdopen(reopen(path), "ab")
    except OSError:
        return open(os.devnull, "ab")


def keep_private(folder: Path) -> None:
    """Take a folder's rights away from other users."""
    # An earlier toolchain made it with the rights of the umask.
    with suppress(OSError):
        seen = os.stat(folder)
        shared = seen.st_mode & stat.S_ISVTX  # somebody keeps a store in /tmp itself
        if seen.st_mode & 0o077 and seen.st_uid == os.geteuid() and not shared:
            os.chmod(folder, _PRIVATE_FOLDER)


def _opened(path: Path, flags: int) -> int:
    """Open a regular file, create it if it is missing.

    A FIFO, a link or a device in its place is deleted.
    """
    with suppress(FileNotFoundError):
        seen = os.lstat(path)
        if stat.S_ISREG(seen.st_mode):
            return open_regular(path, flags)
        remove(path)
    return os.open(path, flags, _PRIVATE)


CHANGES = (
    "create",
    "reopen",
    "write",
    "truncate",
    "fsync",
    "sync_all",
    "replace",
    "link",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
)
"""The functions above, of which all functions below are made."""


def sync(path: Path) -> None:
    """Write a file's bytes, or a folder's names, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_everything(folder: Path) -> None:
    """Write all bytes and names below a folder to the disk; with them, those of its file system."""
    if _syncfs_reports(os.uname().release) and _file_system_of(folder) in AT_ONCE:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_all(descriptor)
            return
        except AttributeError:  # a C library without it
            pass
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # a kernel, or a sandbox
                raise
        finally:
            os.close(descriptor)

    for entry in [*folder.rglob("*"), folder]:
        if not entry.is_symlink() and (entry.is_dir() or entry.is_file()):
            sync(entry)


def _syncfs_reports(release: str) -> bool:
    """Return whether syncfs(2) says here that bytes could not be written: from Linux 5.8 on."""
    numbers = re.match(r"(\d+)\.(\d+)", release)
    return numbers is not None and tuple(map(int, numbers.groups())) >= (5, 8)


def _file_system_of(folder: Path) -> str:
    """Return the kind of file system that a folder is on; empty if the kernel does not say."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""

    place = os.path.realpath(folder) + "/"
    longest, kind = "", ""
    for line in text.splitlines():
        # "36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/root rw"; a space is \040
        mounted, _, source = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), mounted.split(" ")[4])
        point = point.rstrip("/") + "/"
        # What was mounted later on the same point hides what was there.
        if place.startswith(point) and len(point) >= len(longest):
            longest, kind = point, source.split(" ")[0]
    return kind


def write_all(descriptor: int, content: Content) -> None:
    """Write every byte."""
    left = memoryview(content)
    while left:
        left = left[write(descriptor, left) :]


def write_new(path: Path, content: bytes) -> None:
    """Write a file and its bytes to the disk; its name is there after a sync of its folder."""
    descriptor = create(path)
    try:
        write_all(descriptor, content)
        fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file as a whole: at any moment it is the old one or the new one."""
    part = path.with_name(f".{path.name}.part")
    write_new(part, content)
    _make_way(path)
    replace(part, path)
    sync(path.parent)


def _make_way(path: Path) -> None:
    """Delete a folder in the place of a file: a rename replaces everything else."""
    if path.is_dir() and not path.is_symlink():
        remove(path)


def write_json(path: Path, value: "dict[str, Any]") -> None:
    """Replace a JSON file as a whole, sealed."""
    sealed = {**value, SEAL: seal_of(value)}
    write_whole(path, (json.dumps(sealed, sort_keys=True) + "\n").encode())


def seal_of(value: "dict[str, Any]") -> str:
    """Return the sha256 of an object's fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_note(path: Path, value: "dict[str, Any]") -> None:
    """Replace a JSON file that a power cut may take."""
    # It is about processes, which are gone then as well.
    part = path.with_name(f".{path.name}.part")
    descriptor = create(part)

    try:
        write_all(descriptor, json.dumps(value).encode())
    finally:
        os.close(descriptor)

    _make_way(path)
    replace(part, path)


def read_json(path: Path, *, sealed: bool = False) -> "dict[str, Any] | None":
    """Return the object in a JSON file; None if it is missing, broken, or its seal is.

    A file without a seal is from an earlier toolchain, or a note; `sealed` refuses those.
    """
    content = read_bounded(path, MAX_JSON_BYTES)
    if content is None or len(content) > MAX_JSON_BYTES:
        return None

    try:
        value = parse_json(content)
    except ValueError:
        return None

    if not isinstance(value, dict):
        return None

    seal = value.pop(SEAL, None)
    sound = seal == seal_of(value) if seal is not None else not sealed
    return value if sound else None


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, and put their names on the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        try:
            mkdir(path)
        except FileExistsError:
            if not path.is_dir():
                raise
        sync(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        for entry in list(path.iterdir()):
            remove(entry)
        rmdir(path)
    elif path.is_symlink() or path.exists():
        unlink(path)
