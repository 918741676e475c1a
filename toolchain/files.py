"""Files that are whole or not there at all, and second names for files that never change.

Every stage writes through these. A process that is killed on the way leaves `.<name>.part`, never
half a file under the real name.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def write_whole(path: Path, text: str, *, lasting: bool = True) -> None:
    """Write a text file through a temporary file, fsync and rename."""
    with whole_file(path, lasting=lasting) as part, _made(part) as stream:
        stream.write(text)


@contextmanager
def whole_file(file: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path; at the end it is renamed to `file`, on an error removed.

    One that is not `lasting` goes with the process, and needs not outlive a power cut.
    """
    part = file.with_name(f".{file.name}.part")
    # In a folder that others write into it may be their link to a file of ours.
    part.unlink(missing_ok=True)
    try:
        yield part
        if lasting:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _made(path: Path) -> TextIO:
    """Open a text file that is not there yet, nor as a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o666), "w", encoding="utf-8")


def kept_secret(file: Path, make: Callable[[], bytes]) -> bytes:
    """Return the bytes of a file of its owner alone; `make` gives them if it is not there yet.

    It appears whole and on the disk, or not at all. Who comes second gets what the first has made.
    """
    if not file.exists():
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(make())
                stream.flush()
                os.fsync(descriptor)
            _name_once(part, file)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(file.parent)
    return file.read_bytes()


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_once(part: Path, file: Path) -> None:
    """Give a file its name unless another has it."""
    try:
        os.link(part, file)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        part.replace(file)


def keep_folder(staged: Path, kept: Path) -> None:
    """Rename a folder to its name in a cache; leave the one that another process put there first.

    The name must say what is in it, so that both are equal.
    """
    try:
        staged.rename(kept)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
