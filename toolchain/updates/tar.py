"""Tar files that are written in one pass, of members whose sizes are known before their bytes.

The same members give the same bytes: no time, no owner, no compression (a model hardly shrinks, and
the board would pay for it).
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of an archive."""

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]
    """Yields its bytes, anew at each call."""

    @classmethod
    def of(cls, name: str, content: bytes) -> "Member":
        """Return a member of these bytes."""
        return cls(name=name, size=len(content), chunks=lambda: iter((content,)))

    @classmethod
    def nested(cls, name: str, members: "Sequence[Member]") -> "Member":
        """Return a member that is itself an archive."""
        return cls(name=name, size=tar_size(members), chunks=lambda: tar_chunks(members))


def tar_size(members: Sequence[Member]) -> int:
    """Return the bytes of an archive."""
    padded = sum(member.size + _padding(member.size) for member in members)
    return padded + tarfile.BLOCKSIZE * len(members) + len(_END)


def tar_chunks(members: Sequence[Member]) -> Iterator[bytes]:
    """Yield the bytes of an archive."""
    for member in members:
        header = tarfile.TarInfo(member.name)
        header.size = member.size
        # GNU's form has room for the size of any file; that of USTAR ends at 8 GiB.
        yield header.tobuf(tarfile.GNU_FORMAT)
        yield from member.chunks()
        yield bytes(_padding(member.size))
    yield _END


def _padding(size: int) -> int:
    return -size % tarfile.BLOCKSIZE
