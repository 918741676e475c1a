"""Needs of a shared library: versions of glibc's symbols, and the page size of its segments.

Reads 64-bit little-endian ELF: System V ABI, and Linux Standard Base, "Symbol Versioning".
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ArtifactError

_MAGIC = b"\x7fELF\x02\x01"
_VERSION_NEEDS = 0x6FFFFFFE
_LOADED = 1
_NO_GLIBC = (2, 0)


@dataclass(frozen=True, slots=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int
    count: int


def glibc_floor(libraries: list[Path]) -> str:
    """Return the oldest glibc, such as `2.34`, on which all these libraries load."""
    versions = [_glibc(name) for library in libraries for name in needed_versions(library)]
    return ".".join(map(str, max(versions, default=_NO_GLIBC)))


def needed_versions(library: Path) -> set[str]:
    """Return the symbol versions that a library needs, such as `GLIBC_2.34`.

    Raises ArtifactError for a file that is no such library.
    """
    image = library.read_bytes()
    if not image.startswith(_MAGIC):
        raise ArtifactError(f"{library.name}: not a 64-bit little-endian ELF library")

    try:
        sections = _sections(image)
        return {
            name
            for section in sections
            if section.kind == _VERSION_NEEDS
            for name in _names(image, section, sections[section.link])
        }
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise ArtifactError(f"{library.name}: broken ELF library") from error


def largest_page(library: Path) -> int:
    """Return the largest page size, in bytes, that a library can be mapped with, or 0."""
    image = library.read_bytes()
    table, size, count = struct.unpack_from("<Q", image, 0x20) + struct.unpack_from(
        "<HH", image, 0x36
    )
    rows = [
        struct.unpack_from("<IIQQQQQQ", image, table + number * size) for number in range(count)
    ]
    return min((int(row[7]) for row in rows if row[0] == _LOADED), default=0)


def _sections(image: bytes) -> list[_Section]:
    table, size, count = struct.unpack_from("<Q", image, 0x28) + struct.unpack_from(
        "<HH", image, 0x3A
    )
    rows = [
        struct.unpack_from("<IIQQQQIIQQ", image, table + number * size) for number in range(count)
    ]
    return [
        _Section(kind=row[1], offset=row[4], size=row[5], link=row[6], count=row[7]) for row in rows
    ]


def _names(image: bytes, needs: _Section, strings: _Section) -> list[str]:
    """Return the versions that are needed, from the list of libraries and its lists of versions."""
    names = []
    at = needs.offset
    for _ in range(needs.count):
        _, versions, _, first, following = struct.unpack_from("<HHIII", image, at)
        entry = at + first
        for _ in range(versions):
            name, step = struct.unpack_from("<II", image, entry + 8)
            start = strings.offset + name
            names.append(image[start : image.index(b"\0", start)].decode("ascii"))
            entry += step
        at += following

    return names


def _glibc(name: str) -> tuple[int, ...]:
    found = re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", name)
    return tuple(map(int, found[1].split("."))) if found else _NO_GLIBC
