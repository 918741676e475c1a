"""Files that are whole or not there at all, and second names for files that never change.

Every stage writes through these. A process that is killed on the way leaves `.<name>.part`, never
half a file under the real name.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, *, lasting: bool = True) -> None:
    """Write a text file through a temporary file, fsync and rename."""
    with whole_file(path, lasting=lasting) as part:
        part.write_text(text, encoding="utf-8")


@contextmanager
def whole_file(file: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path; at the end it is renamed to `file`, on an error removed.

    One that is not `lasting` goes with the process, and needs not outlive a power cut.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        yield part
        if lasting:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


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
