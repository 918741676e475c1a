"""Joins a GGUF model in several parts (`NAME-00001-of-00003.gguf`) to one file.

llama.cpp's `gguf-split` writes such parts: the first has the model's metadata, each has some of its
tensors. A board gets one file. Every header is checked before a byte is copied.
"""

import mmap
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from device.manifest import ManifestError
from device.manifest.gguf import MAX_HEADER_BYTES, TYPES, Header, read_header
from device.manifest.gguf_values import U32, U64, Cursor, read_value
from toolchain.errors import ArtifactError
from toolchain.progress import Reporter

PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
"""Name of a part; llama.cpp counts from 1 there and from 0 in the header (`llama_split_path`)."""
MAX_PARTS = 1024
_COPY_BYTES = 1 << 20
_ALIGNMENT = "general.alignment"
_SPLIT = "split."
"""Beginning of the metadata keys that only parts have."""
_NUMBERS = {name: number for number, (name, _, _) in TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    file: Path
    header: Header


def parts_of(file: Path) -> tuple[Path, ...]:
    """Return all files of the model that this file is a part of; itself if it is a whole model.

    Raises ArtifactError for a part whose companions are missing, or whose name is not a part's.
    """
    count = _count(_header(file), file)
    if count < 2:
        return (file,)

    named = PART.fullmatch(file.name)
    if not named or int(named["count"]) != count:
        raise ArtifactError(
            f"{file.name}: is one of {count} parts, and its name is not a part's",
            hint=f"name the parts as they were published: NAME-00001-of-{count:05}.gguf and so on",
        )

    files = tuple(file.with_name(name) for name in part_names(file.name))
    missing = [each.name for each in files if not each.is_file()]
    if missing:
        raise ArtifactError(
            f"{file.name}: is one of {count} parts, {len(missing)} not here: "
            f"{', '.join(missing[:3])}",
            hint="put all parts into one folder",
        )

    return files


def part_names(name: str) -> tuple[str, ...]:
    """Return the names of all parts of the model that a part's name belongs to; else the name."""
    named = PART.fullmatch(name)
    if not named or not 1 <= int(named["count"]) <= MAX_PARTS:
        return (name,)
    count = int(named["count"])
    return tuple(f"{named['stem']}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1))


def whole_name(name: str) -> str:
    """Return the name of the joined file."""
    named = PART.fullmatch(name)
    return f"{named['stem']}.gguf" if named else name


def whole_header(file: Path) -> Header:
    """Return the header of a model, of all its parts if the file is one of them.

    Offsets of tensors are those in their own part.
    """
    headers = [_header(part) for part in parts_of(file)]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return Header(headers[0].metadata, tensors, sum(header.size for header in headers))


def join(files: Sequence[Path], out: Path, report: Reporter) -> None:
    """Write the parts of a model to one file.

    Raises ArtifactError for parts that do not belong together.
    """
    parts = [_Part(file=file, header=_header(file)) for file in files]
    _check(parts)
    alignment = parts[0].header.metadata.get(_ALIGNMENT, 32)
    assert isinstance(alignment, int)  # `read_header` has checked it

    tensors = [(part.file, tensor) for part in parts for tensor in part.header.tensors]
    total = sum(tensor.size for _, tensor in tensors)
    done = 0

    unfinished = out.with_name(out.name + ".part")
    with unfinished.open("wb") as stream:
        stream.write(_head(parts, alignment))
        for file, tensor in tensors:
            _pad(stream, alignment)
            with file.open("rb") as source:
                source.seek(tensor.offset)
                _copy(source, stream, tensor.size, file)
            done += tensor.size
            report.step("join the parts", done, total, "B")
        _pad(stream, alignment)
    unfinished.replace(out)


def _header(file: Path) -> Header:
    try:
        return read_header(file)
    except ManifestError as error:
        raise ArtifactError(str(error), hint="download or copy the file again") from error


def _count(header: Header, file: Path) -> int:
    count = header.metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= MAX_PARTS:
        raise ArtifactError(f"{file.name}: `split.count` is `{str(count)[:20]}`, not a count")
    return count


def _check(parts: Sequence[_Part]) -> None:
    """Raise ArtifactError unless the parts are those of one model, in order and whole."""
    names: set[str] = set()
    for number, part in enumerate(parts):
        said = part.header.metadata
        if (said.get("split.count"), said.get("split.no")) != (len(parts), number):
            raise ArtifactError(
                f"{part.file.name}: its header does not say that it is part "
                f"{number + 1} of {len(parts)}",
                hint="download the parts again, all of one model",
            )
        if part.header.metadata.get(_ALIGNMENT, 32) != parts[0].header.metadata.get(_ALIGNMENT, 32):
            raise ArtifactError(f"{part.file.name}: its alignment is not that of the first part")
        for tensor in part.header.tensors:
            if tensor.name in names:
                raise ArtifactError(f"{part.file.name}: tensor `{tensor.name}` is in two parts")
            names.add(tensor.name)

    claimed = parts[0].header.metadata.get("split.tensors.count", len(names))
    if claimed != len(names):
        raise ArtifactError(
            f"{parts[0].file.name}: the parts have {len(names)} tensors, its header says {claimed}",
            hint="download the parts again, all of one model",
        )


def _head(parts: Sequence[_Part], alignment: int) -> bytes:
    """Return the header of the joined file: the first part's metadata, all parts' tensors."""
    entries = _entries(parts[0].file)
    claims, offset = [], 0
    for part in parts:
        for tensor in part.header.tensors:
            offset += -offset % alignment
            name = tensor.name.encode()
            claims.append(
                struct.pack("<Q", len(name))
                + name
                + struct.pack(
                    f"<I{len(tensor.shape)}QIQ",
                    len(tensor.shape),
                    *tensor.shape,
                    _NUMBERS[tensor.type],
                    offset,
                )
            )
            offset += tensor.size

    begin = struct.pack("<4sIQQ", b"GGUF", 3, len(claims), len(entries))
    return begin + b"".join(entries) + b"".join(claims)


def _entries(file: Path) -> list[bytes]:
    """Return the metadata entries as they are stored, without those that only a part has."""
    entries = []
    with (
        file.open("rb") as stream,
        mmap.mmap(
            stream.fileno(), min(file.stat().st_size, MAX_HEADER_BYTES), access=mmap.ACCESS_READ
        ) as view,
    ):
        cursor = Cursor(view)
        cursor.skip(4 + U32.size + U64.size)
        for _ in range(cursor.take(U64)):
            first = cursor.at
            key = cursor.name(MAX_HEADER_BYTES, "a metadata key")
            read_value(cursor, key, cursor.take(U32))
            if not key.startswith(_SPLIT):
                entries.append(view[first : cursor.at])

    return entries


def _copy(source: BinaryIO, target: BinaryIO, size: int, file: Path) -> None:
    while size:
        piece = source.read(min(size, _COPY_BYTES))
        if not piece:
            raise ArtifactError(f"{file.name}: the file became shorter while it was read")
        target.write(piece)
        size -= len(piece)


def _pad(stream: BinaryIO, alignment: int) -> None:
    stream.write(bytes(-stream.tell() % alignment))
